"""The uniform compactor: one size for all layers, so that transformers' own classes hold the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from prune_core.compaction.adapter import adapter_of
from prune_core.compaction.decide import fold_and_keep
from prune_core.compaction.dense import DenseCompactor, cut, inner_masks, padded, started, stored, weights_of
from prune_core.compaction.depth import shorten
from prune_core.compaction.layers import Shortening, layers_of
from prune_core.compaction.resize import resize
from prune_core.compaction.stock import empty, shapes, stock
from prune_core.compactor import Compaction, Compactor, UnitReport
from prune_core.errors import ModelError, StructureError
from prune_core.masks import Mask, MaskSet
from prune_core.structure import Attention, ModelStructure, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.architectures import Sizes

Kept = dict[str, list[int]]
"""Key of a unit -> heads (or neurons) that stay."""


class UniformCompactor(Compactor):
    """Gives every layer the size of the largest one, and leaves out layers of which nothing is left.

    What a layer need not keep but has to hold is taken from what its masks emptied, and adds nothing.
    """

    accepts: ClassVar[frozenset[str]] = DenseCompactor.accepts
    automatic: ClassVar[bool] = False

    def check(self, model: PreTrainedModel, structure: ModelStructure) -> None:
        """StructureError for a family without `sizes`, or heads that cannot go; ModelError for a compact model."""
        DenseCompactor().check(model, structure)
        if not structure.stacks or any(stack.sizes is None for stack in structure.stacks):
            raise StructureError(
                f"{structure.architecture} models cannot have one size for all layers: their family names no fields "
                "of the configuration for it (Stack.sizes); use --compactor dense"
            )
        if getattr(model.config, "quantization_config", None) is not None:
            raise ModelError(
                "this model is compact already, prune_core alone loads it: compact the masked model that it "
                "came from, as in RUN/masked"
            )

    @torch.no_grad()
    def compact(
        self, model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, *, inplace: bool = False
    ) -> Compaction:
        self.check(model, structure)
        narrow = started(model, masks, structure, inplace=inplace)
        needed = {unit.key: fold_and_keep(narrow, unit, masks) for unit in structure.units}
        weights = {unit.key: weights_of(narrow, unit) for unit in structure.units}
        ragged = sum(_left(unit, weights[unit.key], masks, needed[unit.key]) for unit in structure.units)
        plan = planned(narrow, structure, needed)
        inner: dict[str, Mask] = {}
        for unit in structure.units:
            inner |= cut(narrow, unit, masks, plan.kept[unit.key], needed[unit.key])
            _narrow_shared(narrow, unit, plan.kept[unit.key])
        whole = stock(narrow, plan.fields, dict(narrow.state_dict()))
        idle = [layer for layer in layers_of(structure) if not any(needed[unit.key] for unit in layer.units)]
        smaller, shortening = shorten(whole, structure, idle)
        kept = plan.kept | {unit.key: [] for layer in shortening.gone for unit in layer.units}
        count = sum(weights[unit.key] * len(kept[unit.key]) // unit.count for unit in structure.units)
        total = sum(weights.values())
        return Compaction(
            model=_inside(model, smaller) if inplace else smaller,
            units=tuple(UnitReport(unit.key, tuple(kept[unit.key]), unit.count) for unit in structure.units),
            masks=MaskSet(shortening.renamed(inner)),
            density=count / total,
            ragged=ragged / total,
            notes=(*plan.notes, *_without_effect(shortening)),
        )


@dataclass(frozen=True)
class Plan:
    """The fields of the configuration to set, what each unit keeps, and what people should know."""

    fields: dict[str, Any]
    kept: Kept
    notes: tuple[str, ...]


def planned(model: PreTrainedModel, structure: ModelStructure, needed: Kept) -> Plan:
    """The smallest sizes that hold what is needed of every layer and that the class of `model` can have."""
    fields: dict[str, Any] = {}
    kept: Kept = {}
    notes = []
    for sizes, units in _of_one_size(structure):
        wanted = _alike(units, needed)
        least, most = max(1, *(len(one) for one in wanted.values())), units[0].count
        counts = range(least, most) if isinstance(units[0], Attention) else (least,)
        count = next((count for count in counts if _can_have(model, sizes, units, count)), most)
        if count < most:
            fields |= _fields(sizes, units[0], count)
        elif least < most:
            notes.append(_stays_whole(model, units))
        kept |= {key: padded(one, count, most) for key, one in wanted.items()}
    return Plan(fields, kept, tuple(notes))


def _of_one_size(structure: ModelStructure) -> Iterator[tuple[Sizes, list[Unit]]]:
    """The units whose size is one and the same field of the configuration."""

    def of(unit: Unit) -> Sizes:
        found = structure.stack_of(unit).sizes
        assert found is not None, "check has seen to it"
        return found

    def field(unit: Unit) -> str:
        attention = isinstance(unit, Attention)
        return f"{attention}{of(unit).heads if attention else of(unit).neurons}"

    for _, units in groupby(sorted(structure.units, key=field), field):
        group = list(units)
        yield of(group[0]), group


def _alike(units: list[Unit], needed: Kept) -> Kept:
    """What is needed of these units, where those of a stack that share something of each head need the same."""
    wanted = {unit.key: needed[unit.key] for unit in units}
    sharing = [unit for unit in units if _shares(unit)]
    for _, stack in groupby(sharing, lambda unit: unit.key.partition("layer.")[0]):
        keys = [unit.key for unit in stack]
        wanted |= dict.fromkeys(keys, sorted({index for key in keys for index in needed[key]}))
    return wanted


def _shares(unit: Unit) -> bool:
    return isinstance(unit, Attention) and not unit.cross and adapter_of(unit).alike


def _can_have(model: PreTrainedModel, sizes: Sizes, units: list[Unit], count: int) -> bool:
    """Whether units cut to this size are what the class of `model` builds, its configuration changed accordingly."""
    if (sizes.head_size if isinstance(units[0], Attention) else sizes.neurons) is None:
        return False
    twin, wanted = empty(model, {}), empty(model, _fields(sizes, units[0], count))
    if twin is None:
        return False
    for unit in units:
        resize(twin, unit, range(count))
        _narrow_shared(twin, unit, range(count))
    return shapes(twin) == shapes(wanted)


def _fields(sizes: Sizes, unit: Unit, count: int) -> dict[str, Any]:
    """The fields that give a layer so many heads or neurons."""
    if not isinstance(unit, Attention):
        return {str(sizes.neurons): count}
    fields = {sizes.heads: count * unit.queries_per_key, str(sizes.head_size): unit.head_size}
    return fields | ({sizes.key_value_heads: count} if sizes.key_value_heads else {})


def _stays_whole(model: PreTrainedModel, units: list[Unit]) -> str:
    what = f"{units[0].key.replace('.0.', '.*.')} keeps all {units[0].count}"
    if isinstance(units[0], Attention):
        return f"{what} heads: {type(model).__name__} derives the size of a head from how many there are"
    return f"{what} neurons: the configuration of {type(model).__name__} has no field for another number"


def _narrow_shared(model: PreTrainedModel, unit: Unit, kept: Sequence[int]) -> None:
    """With a unit's heads go what its stack shares of them."""
    if isinstance(unit, Attention) and len(kept) < unit.count:
        adapter_of(unit).narrow_shared(model.get_submodule(unit.core), kept)


def _left(unit: Unit, weights: int, masks: MaskSet, needed: list[int]) -> int:
    """How many weights of a unit are stored where only what it needs is kept."""
    zeros = inner_masks(unit, masks, needed) if masks.sparse else {}
    return stored(unit, weights, needed, zeros, zeros.keys())


def _without_effect(shortening: Shortening) -> tuple[str, ...]:
    paths = ", ".join(layer.path for layer in shortening.gone)
    return (f"layers without effect are gone: {paths}",) if paths else ()


def _inside(model: PreTrainedModel, smaller: PreTrainedModel) -> PreTrainedModel:
    """`model` itself, become `smaller`: a module is what its attributes are."""
    model.__dict__ = smaller.__dict__
    return model
