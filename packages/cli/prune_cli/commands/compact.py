"""prune compact: remove physically what saved masks say."""

from pathlib import Path
from typing import Annotated

import typer

from prune_cli import options

_GIVEN = ("architecture", "plugins", "measure", "device")
"""Sections of a recipe that say what the model is and where it will run, not what a run does with it."""


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
    drop_layers: options.DropLayers = None,
    keep_layers: options.KeepLayers = None,
    align: options.Align = None,
    portable: options.Portable = None,
    embedding_bits: options.EmbeddingBits = None,
    recipe: options.Described = None,
    json: options.Json = False,
) -> None:
    """Remove from MODEL what MASKS say; the result is verified before it is written.

    Without MASKS it takes models that were pruned elsewhere: whole heads and neurons of zeros are removed, and folders
    with `pruned_heads` in config.json and smaller matrices, which transformers 5 does not load, become loadable ones.

    --align auto measures at the device, batch size and length that the recipe of --recipe says.

    Layers that are removed hand on what they get: that is the function that the result is verified against.
    """
    from prune_core.recipe import Recipe
    from prune_core.runs.configuring import plugins_of

    said = {
        "compactor": options.compactor_of(compactor, uniform) or "auto",
        "depth": options.depth_of(drop_layers, keep_layers),
        "align": align or 1,
        "portable": bool(portable),
        "embedding_bits": embedding_bits,
    }
    given = Recipe.load(recipe) if recipe else Recipe()
    asked = Recipe.parse(said, "flags").model_copy(update={name: getattr(given, name) for name in _GIVEN})
    if asked.compactor != "auto":
        plugins_of(asked).get("compactors", asked.compactor)  # a misspelt name fails before torch is imported

    from prune_cli import render
    from prune_core.folders.compacting import compact_folder

    report = compact_folder(model, masks, output, asked)
    if json:
        render.print_json(report)
    else:
        apart = ("units", "alignment", "notes")  # prune inspect lists the units, notes say what was aligned
        figures = {name: value for name, value in report.items() if name not in apart}
        render.print_table(f"{model} compacted to {output}", ["figure", "value"], render.pairs(figures))
        for note in report.get("notes", ()):
            typer.echo(note)
