"""prune compact: remove physically what saved masks say."""

from pathlib import Path
from typing import Annotated

import typer

from prune_cli import options


def compact(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of the masked model. Example: ./my-bert")],
    output: Annotated[Path, typer.Option(help="Folder of the compact model. Example: --output ./my-bert-small")],
    masks: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MASKS]",
            help="File of masks; without it the zeros of MODEL, pruned elsewhere, are its masks. "
            "Example: runs/first/masks.safetensors",
        ),
    ] = None,
    compactor: Annotated[
        str, typer.Option(help="auto takes the one that accepts the masks. Example: --compactor dense")
    ] = "auto",
    uniform: options.Uniform = False,
    portable: options.Portable = None,
    recipe: options.Described = None,
    json: options.Json = False,
) -> None:
    """Remove from MODEL what MASKS say; the result is verified before it is written.

    Without MASKS it takes models that were pruned elsewhere: whole heads and neurons of zeros are removed, and folders
    with `pruned_heads` in config.json and smaller matrices, which transformers 5 does not load, become loadable ones.
    """
    from prune_core.configuring import plugins_of
    from prune_core.recipe import Recipe

    compactor = options.compactor_of(compactor, uniform) or "auto"
    plugins = plugins_of(Recipe.load(recipe) if recipe else Recipe())
    if compactor != "auto":
        plugins.get("compactors", compactor)  # a misspelt name fails before torch is imported

    from prune_cli import render
    from prune_core.portable import make_portable
    from prune_core.run import compact_folder

    report = compact_folder(model, masks, output, compactor, plugins)
    if portable:
        make_portable(output, plugins)
    if json:
        render.print_json(report)
    else:
        apart = ("units", "notes")  # prune inspect lists the units
        figures = {name: value for name, value in report.items() if name not in apart}
        render.print_table(f"{model} compacted to {output}", ["figure", "value"], render.pairs(figures))
        for note in report.get("notes", ()):
            typer.echo(note)
