"""The dense compactor: ordinary dense layers of smaller size."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from prune_core.compaction.adapter import adapter_of
from prune_core.compaction.decide import kept_indices
from prune_core.compaction.resize import lines, resize
from prune_core.compactor import Compaction, Compactor, UnitReport
from prune_core.granularity import Axis, Element
from prune_core.loading import record
from prune_core.masks import Mask, MaskSet
from prune_core.storage import packable
from prune_core.structure import ModelStructure, Unit, linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DenseCompactor(Compactor):
    """Bakes the masks in, then removes every head, neuron and unit that they leave nothing of."""

    accepts: ClassVar[frozenset[str]] = frozenset(
        {"element", "block", "row", "column", "rows_columns", "head", "neuron", "n:m"}
    )

    def check(self, model: PreTrainedModel, structure: ModelStructure) -> None:
        """StructureError for attention that can lose no head."""
        for unit in structure.attention:
            adapter_of(unit).check(model.get_submodule(unit.core))

    @torch.no_grad()
    def compact(
        self, model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, *, inplace: bool = False
    ) -> Compaction:
        total = structure.size(model)
        smaller = started(model, masks, structure, inplace=inplace)
        reports = []
        remaining: dict[str, Mask] = {}
        stored = 0
        left_out = packable(smaller, (f"{name}.weight" for name in structure.linears())) if masks.sparse else []
        for unit in structure.units:
            if not unit.linears():
                continue
            kept = kept_indices(smaller, unit, masks)
            reports.append(UnitReport(unit.key, tuple(kept), unit.count))
            inner = inner_masks(unit, masks, kept)
            remaining |= inner
            resize(smaller, unit, kept)
            MaskSet(inner).bake(smaller)
            stored += _stored(smaller, unit, {name: inner[name] for name in inner.keys() & set(left_out)}, bool(kept))
        record(smaller, tuple(reports), structure, sparse=masks.sparse)
        return Compaction(smaller, tuple(reports), MaskSet(remaining, sparse=masks.sparse), stored / total)


def started(
    model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, *, inplace: bool = False
) -> PreTrainedModel:
    """The model to cut, with all masks baked in but those of the prunable weights. MaskError where masks do not fit."""
    masks.check(model)
    smaller = model if inplace else _copied(model, structure)
    prunable = {f"{name}.weight" for name in structure.linears()}
    MaskSet({name: mask for name, mask in masks.items() if name not in prunable}).bake(smaller)
    return smaller


def _copied(model: PreTrainedModel, structure: ModelStructure) -> PreTrainedModel:
    """A copy but for the prunable weights: those stay the model's own until each is cut, so none is copied whole."""
    return copy.deepcopy(model, {id(weight): weight for _, weight in structure.weights(model)})


def inner_masks(unit: Unit, masks: MaskSet, kept: list[int]) -> dict[str, Mask]:
    """Masks of the weights that stay, where they still have zeros, in the compact model's shapes."""
    found = {}
    for module in unit.linears() if kept else ():
        mask = masks.get(f"{module}.weight")
        if mask is not None:
            index, axis = lines(unit, module, kept)
            if _whole(mask, index, axis):
                continue
            values = mask.expand().index_select(0 if axis == "rows" else 1, index)
            if not values.all():
                found[f"{module}.weight"] = Mask(Element(), values, tuple(values.shape))
    return found


def _whole(mask: Mask, index: Tensor, axis: Axis) -> bool:
    """Whether a mask of whole rows or columns keeps all of these lines: nothing is left to expand."""
    if getattr(mask.granularity, "axis", None) != axis:
        return False
    alive = mask.granularity.rows if axis == "rows" else mask.granularity.columns
    return bool(alive(mask.values.to(torch.uint8), mask.shape)[index].all())


def _stored(model: nn.Module, unit: Unit, sparse: dict[str, Mask], alive: bool) -> int:
    """Weights of a unit that are stored: all of them, or the non-zero ones of those under a sparse mask."""
    total = 0
    for module in unit.linears() if alive else ():
        mask = sparse.get(f"{module}.weight")
        total += int(mask.values.sum()) if mask else linear(model, module).weight.numel()
    return total
