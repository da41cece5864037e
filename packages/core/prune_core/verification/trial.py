"""Try a layout that no family of ours vouches for, before anything is trained by it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune_core.compaction.dense import DenseCompactor
from prune_core.errors import PruneError, StructureError
from prune_core.kit.layouts import heads, neurons
from prune_core.linears import linear, output_axis
from prune_core.masks import Mask, MaskSet, bias_mask
from prune_core.plugins import OURS
from prune_core.structure import Attention, ModelStructure, Unit
from prune_core.verification.reach import expected_through
from prune_core.verification.verify import told, verify

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def needed(structure: ModelStructure) -> bool:
    """Whether a layout was found, described by a recipe, or is that of a plugin."""
    return structure.layout is not None or structure.owner != OURS


def prove(model: PreTrainedModel, structure: ModelStructure, batch: dict[str, Tensor]) -> None:
    """Compact a copy, some units half and some whole, and compare masked, compact and reloaded model on `batch`.

    Of the halves every second head or neuron that goes leaves a constant, where a bias can take it.

    StructureError where they are not the same function: this model cannot be compacted by this layout. ModelError where
    `batch` does not reach all units.
    """
    masked = copy.deepcopy(model)
    masks = MaskSet(
        {name: mask for unit, count in _left(structure) for name, mask in _masks(masked, unit, count).items()}
    )
    masks.bake(masked)
    expected = expected_through(masked, structure.units, [batch])
    try:
        with told():
            verify(expected, DenseCompactor().compact(masked, masks, structure, inplace=True), [batch]).enforce()
    except PruneError as error:
        raise StructureError(
            f"{type(model).__name__} cannot be compacted by the layout that was found or given for it "
            f"({', '.join(structure.keys()[:2])}, ...; see `prune inspect`): on a trial {error}"
        ) from error


def _left(structure: ModelStructure) -> Iterator[tuple[Unit, int]]:
    """In turn a half is left, and nothing; of the feed-forward units beginning with the last."""
    kinds: tuple[Sequence[Unit], ...] = (structure.attention, structure.ffn[::-1])
    for units in kinds:
        for index, unit in enumerate(units):
            yield unit, 0 if index % 2 else unit.count // 2


def _masks(model: PreTrainedModel, unit: Unit, count: int) -> dict[str, Mask]:
    """Masks that keep the last `count` heads or neurons of a unit, and make a constant of some of the others.

    A constant reads nothing, but keeps its biases and what reads it. Only where something is left: what has no bias to
    be folded into stays.
    """
    plans = heads(unit) if isinstance(unit, Attention) else neurons(unit)
    index = torch.arange(unit.count)
    left = index >= unit.count - count
    read = left | ((index % 2 == 1) & (count > 0))
    found = {}
    for target in (target for plan in plans for target in plan.targets):
        layer = linear(model, target.module)
        shape = tuple(layer.weight.shape)
        found[f"{target.module}.weight"] = Mask(target.granularity, read if target.consumer else left, shape)
        if layer.bias is not None and not target.consumer:
            found[f"{target.module}.bias"] = bias_mask(target.granularity, read, shape, output_axis(layer))
    return found
