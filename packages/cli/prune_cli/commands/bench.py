"""prune bench: how much faster, smaller and cheaper a model is than its baseline."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.measure import Comparison, Side

DTypeName = Literal["float32", "bfloat16", "float16"]


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub name. Example: runs/first/model")],
    baseline: Annotated[str, typer.Option(help="Model to compare with. Example: --baseline ./my-bert")],
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a batch, 8 by default. Example: --batch-size 1")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens an example (text models), 128 by default. Example: --length 384")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Interleaved rounds that count, 20 by default. Example: --rounds 50")
    ] = None,
    device: options.Device = None,
    dtype: Annotated[DTypeName, typer.Option(help="Precision of both. Example: --dtype bfloat16")] = "float32",
    json: options.Json = False,
) -> None:
    """Time MODEL against a baseline, interleaved and warmed up, on the CPU or on CUDA."""
    from prune_cli import render
    from prune_core.recipe import Recipe

    given = {"batch_size": batch_size, "length": length, "rounds": rounds}
    recipe = Recipe.parse({"measure": {name: value for name, value in given.items() if value is not None}}, "flags")

    from prune_core.measure import compare_folders

    comparison = compare_folders(model, baseline, recipe.measure, device or "auto", dtype)
    if json:
        render.print_json(comparison.to_dict())
    else:
        _table(comparison)


def _table(found: "Comparison") -> None:
    from prune_cli import render

    dense, pruned = _figures(found.baseline), _figures(found.model)
    ratios = {name: _ratio(dense[name], pruned[name]) for name in dense} | {"ms a batch (median)": found.speedup}
    known = [name for name in dense if dense[name] is not None or pruned[name] is not None]
    rows = [(name, dense[name], pruned[name], ratios[name]) for name in known]
    machine, settings = found.machine, ", ".join(f"{name} {value}" for name, value in found.settings.items())
    title = f"{found.model.name} is {found.speedup:.2f}x as fast ({found.speedup_low:.2f} to {found.speedup_high:.2f})"
    render.print_table(title, ["figure", found.baseline.name, found.model.name, "times less"], rows)
    place = machine.cpu if machine.device == "cpu" else machine.device
    typer.echo(f"{settings}; {place}, {machine.threads} threads, torch {machine.torch}")


def _figures(side: "Side") -> dict[str, float | None]:
    def millions(count: int | None) -> float | None:
        return None if count is None else count / 1e6

    return {
        "ms a batch (median)": side.timing.median * 1e3,
        "ms a batch (10th percentile)": side.timing.p10 * 1e3,
        "ms a batch (90th percentile)": side.timing.p90 * 1e3,
        "GFLOPs a batch": side.flops / 1e9,
        "million parameters": millions(side.parameters),
        "MB of weights": millions(side.weight_bytes),
        "MB of activations (peak)": millions(side.activation_bytes),
        "MB on disk": millions(side.file_bytes),
    }


def _ratio(dense: float | None, pruned: float | None) -> float | None:
    return dense / pruned if dense and pruned else None
