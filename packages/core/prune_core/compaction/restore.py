"""Cut a model of the original sizes to those that a compact folder records. Its portable file does too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from prune_core.compaction.resize import resize
from prune_core.errors import ModelError, StructureError
from prune_core.structure import Attention, ModelStructure, Unit


def restore(model: nn.Module, structure: ModelStructure, units: Any) -> None:
    """Resize every unit in place. ModelError where `units`, of config.json, and the model do not belong together."""
    missing = [key for key in structure.keys() if not isinstance(units, dict) or key not in units]
    if missing:
        raise ModelError(f"config.json: quantization_config.units does not say what was kept of {', '.join(missing)}")
    for key, entry in units.items():
        if key.startswith(structure.absent):
            continue
        try:
            unit = structure.unit(key)
        except StructureError as error:
            raise ModelError(f"config.json names a unit that the model does not have: {error}") from error
        resize(model, unit, _kept(key, entry, unit))


def _kept(key: str, entry: dict[str, Any], unit: Unit) -> Sequence[int]:
    """Heads by their indices, neurons by their number."""
    total = unit.count
    kept: Sequence[int] = ()
    try:
        found = entry["kept"]
        if isinstance(unit, Attention):
            kept = list(found)
            fits = kept == sorted({*kept} & {*range(total)}) and all(type(index) is int for index in kept)
        else:
            fits = type(found) is int and 0 <= found <= total
            kept = range(found) if fits else ()
        fits = fits and entry["of"] == total
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ModelError(f"config.json: {key} keeps {entry!r}, which does not fit the {total} of this model's config")
    return kept
