"""prune explain: where the time of a model goes, and what can still be won."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prune_cli import grids, options

if TYPE_CHECKING:
    from prune_core.measure.explain import Explanation

DTypeName = Literal["float32", "tf32", "bfloat16", "float16"]


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub name. Example: runs/first/model")],
    baseline: Annotated[str, typer.Option(help="Model to compare with. Example: --baseline ./my-bert")],
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a batch, 8 by default. Example: --batch-size 1")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens an example (text models), 128 by default. Example: --length 384")
    ] = None,
    rounds: grids.Rounds = None,
    threads: grids.Threads = None,
    device: options.Device = None,
    dtype: Annotated[
        DTypeName | None, typer.Option(help="Arithmetic of both, float32 by default. Example: --dtype bfloat16")
    ] = None,
    json: options.Json = False,
) -> None:
    """Say why MODEL is not faster: time by kind of both models, what share can still be won, and what to do."""
    from prune_cli import render
    from prune_core.recipe import Recipe

    given = {"batch_size": batch_size, "length": length, "rounds": rounds, "dtype": dtype}
    recipe = Recipe.parse({"measure": {name: value for name, value in given.items() if value is not None}}, "flags")

    from prune_core.measure.explain import explain_folders
    from prune_core.measure.host import computing_with

    with computing_with(threads):
        found = explain_folders(model, baseline, recipe.measure, device or "auto")
    if json:
        render.print_json(found.to_dict())
    else:
        _table(found)


def _table(found: "Explanation") -> None:
    from prune_cli import render

    dense, own = found.baseline, found.model
    rows = [(kind, *_line(dense.kinds[kind], own.kinds[kind], own.seconds)) for kind in own.kinds]
    rows.append(("in all", *_line(dense.seconds, own.seconds, own.seconds)))
    names = [f"{render.short(side.name)} (ms)" for side in (dense, own)]
    columns = ["time by kind", *names, "times less", "share"]
    settings = ", ".join(f"{name} {value}" for name, value in found.comparison.settings.items() if value is not None)
    render.print_table(f"{own.name} against {dense.name}: {settings}", columns, rows)
    for sentence in found.advice:
        typer.echo(f"- {sentence}")


def _line(dense: float, own: float, total: float) -> tuple[object, ...]:
    return dense * 1e3, own * 1e3, dense / own if own else None, f"{own / total:.0%}"
