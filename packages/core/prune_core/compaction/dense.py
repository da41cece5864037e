"""The dense compactor: ordinary dense layers of smaller size."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from prune_core.compaction.adapter import adapter_of
from prune_core.compaction.decide import fold_and_keep
from prune_core.compaction.layers import output_of
from prune_core.compaction.resize import lines, resize
from prune_core.compactor import Compaction, Compactor, UnitReport
from prune_core.folders.loading import record
from prune_core.folders.storage import packable
from prune_core.granularity import Axis, Element
from prune_core.linears import linear
from prune_core.masks import Mask, MaskSet
from prune_core.structure import ModelStructure, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DenseCompactor(Compactor):
    """Bakes the masks in, then removes every head, neuron and unit that they leave nothing of.

    `neurons`: how many each of these units shall hold, by its key, where its masks leave fewer but some. What a unit
    need not keep but has to hold is taken from what its masks emptied, and adds nothing.
    """

    accepts: ClassVar[frozenset[str]] = frozenset(
        {"element", "block", "row", "column", "rows_columns", "head", "neuron", "n:m"}
    )

    traits: ClassVar[Mapping[str, bool]] = {}
    """What to record beside sizes, of `prune_core.folders.loading.TRAITS`."""

    def __init__(self, neurons: Mapping[str, int] | None = None) -> None:
        self.neurons = neurons or {}

    def holding(self, neurons: Mapping[str, int]) -> Compactor:
        return type(self)(neurons)

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
        count = ragged = 0
        more = False
        left_out = packable(smaller, (f"{name}.weight" for name in structure.linears())) if masks.sparse else []
        for unit in structure.units:
            if not unit.linears():
                continue
            weights, needed = weights_of(smaller, unit), fold_and_keep(smaller, unit, masks)
            kept = self.held(unit, needed, masks)
            inner = cut(smaller, unit, masks, kept, needed)
            count += stored(unit, weights, kept, inner, left_out)
            least = inner if kept == needed else inner_masks(unit, masks, needed)
            ragged += stored(unit, weights, needed, least, left_out)
            remaining |= inner
            more |= len(kept) > len(needed)
            reports.append(UnitReport(unit.key, tuple(kept), unit.count))
        record(smaller, tuple(reports), structure, sparse=masks.sparse, **self.traits)
        return Compaction(
            model=smaller,
            units=tuple(reports),
            masks=MaskSet(remaining, sparse=masks.sparse),
            density=count / total,
            ragged=ragged / total if more else None,
            notes=_stored_zeros(remaining, left_out) if masks.sparse else (),
        )

    def held(self, unit: Unit, needed: list[int], masks: MaskSet) -> list[int]:
        """Heads (or neurons) that a unit keeps, those among them that it needs."""
        count = min(self.neurons.get(unit.key, 0), unit.count)
        return padded(needed, count, unit.count) if 0 < len(needed) < count else needed


def _stored_zeros(remaining: Mapping[str, Mask], left_out: Container[str]) -> tuple[str, ...]:
    """A note where zeros that were to be left out on disk are stored."""
    whole = [name for name in remaining if name not in left_out]
    if not whole:
        return ()
    zeros = sum(int((~remaining[name].values).sum()) for name in whole)
    return (
        f"{zeros} zeros of {len(whole)} weights such as {whole[0]} are stored and count as density: transformers fuses "
        "these weights on disk; a strategy of whole heads and neurons makes them smaller",
    )


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


def padded(needed: Iterable[int], count: int, total: int) -> list[int]:
    """The needed ones, and of the others the first, `count` in all."""
    kept = set(needed)
    others = (index for index in range(total) if index not in kept)
    return sorted([*kept, *(next(others) for _ in range(count - len(kept)))])


def cut(model: PreTrainedModel, unit: Unit, masks: MaskSet, kept: list[int], needed: list[int]) -> dict[str, Mask]:
    """Cut a unit down to what it keeps, of which only what is needed adds anything; the masks of what remains."""
    inner = inner_masks(unit, masks, kept)
    resize(model, unit, kept)
    if len(needed) < len(kept):
        inner |= _idle(model, unit, [index in set(needed) for index in kept], inner)
    MaskSet(inner).bake(model)
    return inner


def _idle(model: nn.Module, unit: Unit, needed: list[bool], inner: Mapping[str, Mask]) -> dict[str, Mask]:
    """The mask of a cut unit's output that leaves nothing of the heads or neurons that are not needed."""
    name = f"{output_of(unit)}.weight"
    whole, shape = unit.slice_of(output_of(unit)), tuple(model.get_parameter(name).shape)
    values = whole.expand(torch.tensor(needed), shape)
    return {name: Mask(Element(), values & inner[name].values if name in inner else values, shape)}


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
    return bool(mask.alive(axis)[index].all())


def weights_of(model: nn.Module, unit: Unit) -> int:
    """How many weights a unit has."""
    return sum(linear(model, name).weight.numel() for name in unit.linears())


def stored(unit: Unit, weights: int, kept: list[int], inner: Mapping[str, Mask], left_out: Container[str]) -> int:
    """Of the `weights` of a whole unit those that are stored: of what is kept, less the zeros that are left out."""
    zeros = (int((~mask.values).sum()) for name, mask in inner.items() if name in left_out)
    return weights * len(kept) // unit.count - sum(zeros)
