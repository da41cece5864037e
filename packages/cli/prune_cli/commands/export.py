"""prune export: a model for another runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.recipe import Recipe

FormatName = Literal["torch-export", "onnx", "openvino"]
Int8Name = Literal["dynamic", "calibrated"]


def export(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or hub name, dense or compact. Example: runs/first/model")
    ],
    format: Annotated[FormatName, typer.Option(help="What to export to. Example: --format onnx")],
    output: Annotated[Path, typer.Option(help="Folder of the exported model. Example: --output ./my-bert-onnx")],
    int8: Annotated[
        Int8Name | None,
        typer.Option(
            help="Round the linears to int8 (onnx, on the CPU); calibrated needs --task and its data. "
            "Example: --int8 dynamic"
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Dense model to compare the speed with, in the same runtime. Example: --baseline ./my-bert"),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens an example of what is timed (text models), 128 by default. Example: --length 384"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a batch of what is timed, 8 by default. Example: --batch-size 1")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Interleaved rounds that count, 20 by default. Example: --rounds 50")
    ] = None,
    task: options.Task = None,
    dataset: options.Dataset = None,
    train_file: options.TrainFile = None,
    validation_file: options.ValidationFile = None,
    column: options.Column = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Write MODEL for torch.export, ONNX Runtime or OpenVINO, for any batch size and length; proven and timed there.

    The files are read again by their runtime, and have to compute what MODEL does: on validation inputs of a task where
    one is given, else on random ones. With --int8 what the rounding changes is measured, and the task's figures too.
    """
    from prune_cli import overlay, render
    from prune_core.runs.configuring import task_asked, with_defaults

    timed = {"batch_size": batch_size, "length": length, "rounds": rounds}
    flags = [f"measure.{name}={value}" for name, value in timed.items() if value is not None]
    data = {name: ctx.params[name] for name in ("task", "dataset", "train_file", "validation_file", "column")}
    tree, source = overlay.laid_over(None, {**data, "settings": [*flags, *(settings or ())]})
    recipe: Recipe = with_defaults(tree, source)
    section = task_asked(recipe, source)

    from prune_core.exporting import Wanted, export_folder

    facts = export_folder(model, output, Wanted(format, int8, baseline, section, recipe.measure, recipe.plugins))
    if json:
        render.print_json(facts)
    else:
        _table(f"{model} exported to {output}", facts)


def _table(title: str, facts: dict[str, Any]) -> None:
    from prune_cli import render

    rows = [("format", facts["format"]), *_shapes(facts), *_speed(facts["speed"])]
    rows += [(f"int8: {name}", value) for name, value in render.pairs(facts.get("int8", {}))]
    render.print_table(title, ["figure", "value"], rows)
    for note in facts["notes"]:
        typer.echo(note)


def _shapes(facts: dict[str, Any]) -> list[tuple[str, object]]:
    parity = facts["parity"]
    axes = [(f"input {name}", " x ".join(map(str, one["axes"]))) for name, one in facts["inputs"].items()]
    return [
        *axes,
        ("outputs", ", ".join(facts["outputs"])),
        ("MB", sum(facts["files"].values()) / 1e6),
        (f"largest difference in float32, {parity['samples']} inputs", parity["difference"]),
        ("allowed", parity["tolerance"]),
    ]


def _speed(speed: dict[str, Any]) -> list[tuple[str, object]]:
    from prune_core.measure import Ratio

    where = f"batch {speed['batch_size']}, length {speed['length']}, {speed['machine']['threads']} threads"
    rows: list[tuple[str, object]] = [(f"ms a batch ({where})", speed["model"]["p50"] * 1e3)]
    if "baseline" in speed:
        rows.append(("ms a batch of the baseline", speed["baseline"]["p50"] * 1e3))
        rows.append(("speed-up in this runtime", str(Ratio.from_dict(speed))))
    return rows
