"""The compactor of 2:4 masks: as dense, and what is left computes by semi-structured kernels where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from prune_core.compaction.dense import DenseCompactor, padded
from prune_core.compaction.layers import output_of
from prune_core.compactor import Compaction
from prune_core.errors import MaskError, StructureError
from prune_core.folders.loading import take_two_of_four
from prune_core.granularity import NM
from prune_core.masks import Mask, MaskSet
from prune_core.structure import FeedForward, ModelStructure, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GROUP = 4


class TwoOfFourCompactor(DenseCompactor):
    """Removes heads, neurons and units as `dense` does, and records that linears compute as two of four where they can.

    Neurons stay in whole groups of the four that a mask of their columns counts, so that it holds for what is left;
    those that are not needed add nothing.
    """

    automatic: ClassVar[bool] = False
    traits: ClassVar[Mapping[str, bool]] = {"two_of_four": True}

    def check(self, model: PreTrainedModel, structure: ModelStructure) -> None:
        """StructureError for Conv1Ds too, which the kernels do not know."""
        super().check(model, structure)
        for unit in structure.units:
            if unit.turned:
                raise StructureError(
                    f"two-of-four: {unit.key} of this {structure.architecture} is made of Conv1Ds, and torch has "
                    "semi-structured kernels for Linears alone; use --compactor dense"
                )

    def check_masks(self, masks: MaskSet) -> None:
        """MaskError where no mask leaves two of four at most."""
        if not any(_is_two_of_four(mask) for mask in masks.values()):
            found = ", ".join(sorted({str(mask.granularity) for mask in masks.values() if len(mask.shape) > 1}))
            raise MaskError(
                f"the compactor 'two-of-four' is for 2:4 masks, found {found or 'none'}: prune with "
                "strategy.pattern 2:4, or use --compactor dense"
            )

    @torch.no_grad()
    def compact(
        self, model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, *, inplace: bool = False
    ) -> Compaction:
        compaction = super().compact(model, masks, structure, inplace=inplace)
        take_two_of_four(compaction.model, structure)
        return compaction

    def held(self, unit: Unit, needed: list[int], masks: MaskSet) -> list[int]:
        kept, mask = super().held(unit, needed, masks), masks.get(f"{output_of(unit)}.weight")
        if not isinstance(unit, FeedForward) or mask is None or not _is_two_of_four(mask):
            return kept
        groups = sorted({index // _GROUP for index in needed})
        count = max(len(groups), -(-len(kept) // _GROUP))
        return [
            _GROUP * group + index for group in padded(groups, count, unit.size // _GROUP) for index in range(_GROUP)
        ]


def _is_two_of_four(mask: Mask) -> bool:
    """Whether a mask leaves at most two of every four weights along the inputs, by what it is: 2:4, 1:4, 1:2."""
    kind = mask.granularity
    fits = isinstance(kind, NM) and _GROUP % kind.m == 0 and kind.n * (_GROUP // kind.m) <= 2
    return fits and mask.shape[-1] % _GROUP == 0
