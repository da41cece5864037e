"""prune inspect: the prunable units of a model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_cli import options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.structure import ModelStructure, Unit


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or hub name, dense or compact. Example: runs/first/model")
    ],
    recipe: options.Described = None,
    json: options.Json = False,
) -> None:
    """Show what can be pruned in MODEL, unit by unit, and what is left of a compact model.

    Of a model that no family covers it says which modules were found, and tries them on random inputs.
    """
    from prune_cli import render
    from prune_core.folders.loading import structure_of
    from prune_core.folders.pretrained import load_saved
    from prune_core.recipe import Recipe
    from prune_core.runs.configuring import plugins_of

    plugins = plugins_of(Recipe.load(recipe) if recipe else Recipe())
    loaded = load_saved(model)
    structure = structure_of(loaded, plugins)
    report = {
        "model": model,
        "architecture": structure.architecture,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "prunable_weights": structure.size(loaded),
        "embedding_bits": getattr(getattr(loaded.config, "quantization_config", None), "embedding_bits", None),
        "layout": _layout(loaded, structure),
        "units": _rows(loaded, structure),
    }
    if json:
        render.print_json(report)
    else:
        _table(report)


def _table(report: dict[str, Any]) -> None:
    from prune_cli import render

    weights, parameters = report["prunable_weights"], report["parameters"]
    title = f"{report['model']} ({report['architecture']}): {weights:,} prunable weights of {parameters:,} parameters"
    if report["embedding_bits"]:
        title += f", word embeddings in {report['embedding_bits']} bits"
    columns = ("unit", "kind", "left", "of", "head size", "weights", "share %")
    rows = [[*list(row.values())[:-1], 100 * row["share"]] for row in report["units"]]
    render.print_table(title, columns, rows)
    if report["layout"]:
        render.print_table(
            "of no known family; its modules", ["module", "name"], render.pairs(_named(report["layout"]))
        )


def _layout(model: "PreTrainedModel", structure: "ModelStructure") -> dict[str, Any] | None:
    """As data what the units were found by, where that is no family's file; that of a dense model is tried first."""
    from prune_core.described import as_data

    if structure.layout is None:
        return None
    if getattr(model.config, "quantization_config", None) is None:
        _try(model, structure)
    return as_data(structure.layout)


def _try(model: "PreTrainedModel", structure: "ModelStructure") -> None:
    """StructureError where the layout does not hold on random inputs; a warning where none are known for all of it."""
    from prune_core.errors import ModelError
    from prune_core.measure import dummy_inputs
    from prune_core.verification.trial import prove

    try:
        prove(model, structure, dummy_inputs(model, 2, 8))
    except ModelError as error:
        typer.echo(f"this layout was not tried: {error}", err=True)


def _named(layout: dict[str, Any]) -> dict[str, Any]:
    """The same, stacks by the path of their layers."""
    return {stack["layers"]: {part: stack[part] for part in ("attention", "ffn")} for stack in layout["stacks"]}


def _rows(model: "PreTrainedModel", structure: "ModelStructure") -> list[dict[str, Any]]:
    """A unit a row, as named fields; `share` is that of all prunable weights."""
    total = structure.size(model)
    recorded = getattr(getattr(model.config, "quantization_config", None), "units", {})
    return [_row(model, unit, recorded.get(unit.key, {}).get("of"), total) for unit in structure.units]


def _row(model: "PreTrainedModel", unit: "Unit", before: int | None, total: int) -> dict[str, Any]:
    """`before` is the count of the dense model, of heads or neurons, where the model's configuration recorded it.

    Query heads that share a key/value head come and go with it: they count as one.
    """
    from prune_core.compaction.dense import weights_of
    from prune_core.structure import Attention

    left, weights = unit.count, weights_of(model, unit)
    return {
        "unit": unit.key,
        "kind": _kind(unit),
        "left": left,
        "of": left if before is None else before,
        "head_size": unit.head_size if isinstance(unit, Attention) and left else None,
        "weights": weights,
        "share": weights / total if total else 0.0,
    }


def _kind(unit: "Unit") -> str:
    from prune_core.structure import Attention

    if not isinstance(unit, Attention):
        return "neurons"
    return "head groups" if unit.queries_per_key > 1 else "heads"
