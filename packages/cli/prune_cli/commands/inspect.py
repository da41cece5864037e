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
    json: options.Json = False,
) -> None:
    """Show what can be pruned in MODEL, unit by unit, and what is left of a compact model."""
    from prune_cli import render
    from prune_core.loading import structure_of
    from prune_core.pretrained import load_saved

    loaded = load_saved(model)
    structure = structure_of(loaded)
    report = {
        "model": model,
        "architecture": structure.architecture,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "prunable_weights": structure.size(loaded),
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
    columns = ("unit", "kind", "left", "of", "head size", "weights", "share %")
    rows = [[*list(row.values())[:-1], 100 * row["share"]] for row in report["units"]]
    render.print_table(title, columns, rows)


def _rows(model: "PreTrainedModel", structure: "ModelStructure") -> list[dict[str, Any]]:
    """A unit a row, as named fields; `share` is that of all prunable weights."""
    total = structure.size(model)
    recorded = getattr(getattr(model.config, "quantization_config", None), "units", {})
    return [_row(model, unit, recorded.get(unit.key, {}).get("of"), total) for unit in structure.units]


def _row(model: "PreTrainedModel", unit: "Unit", before: int | None, total: int) -> dict[str, Any]:
    """`before` is the count of the dense model, of heads or neurons, where the model's configuration recorded it.

    Query heads that share a key/value head come and go with it: they count as one.
    """
    from prune_core.structure import Attention, linear

    left = unit.count
    weights = sum(linear(model, name).weight.numel() for name in unit.linears())
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
