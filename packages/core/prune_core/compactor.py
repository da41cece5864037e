"""Compactor: removes physically what a MaskSet says. It knows nothing of strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune_core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from prune_core.masks import MaskSet
    from prune_core.structure import ModelStructure


@dataclass(frozen=True)
class UnitReport:
    """What was kept of one unit: indices of heads (attention) or neurons (feed-forward), of how many."""

    key: str
    kept: tuple[int, ...]
    total: int


@dataclass(frozen=True)
class Compaction:
    """A smaller model and what was removed.

    `masks` are those of what remains, in the compact model's own shapes: the zeros inside heads and neurons that stay.
    `density` is the stored share of the prunable weights (the non-zero ones where the masks are sparse); `ragged` what
    it would be if every layer had the size that its masks leave, from a compactor that keeps more. `notes` are for
    people to read.
    """

    model: PreTrainedModel
    units: tuple[UnitReport, ...]
    masks: MaskSet
    density: float
    ragged: float | None = None
    notes: tuple[str, ...] = ()


class Compactor(ABC):
    """Turns a masked model into a smaller one that computes the same function."""

    accepts: ClassVar[frozenset[str]]
    """Kinds of granularity that it handles: element, block, row, column, rows_columns, head, neuron, n:m."""
    automatic: ClassVar[bool] = True
    """Whether `auto` may choose it; otherwise it is used where it is named."""

    def check(self, model: PreTrainedModel, structure: ModelStructure) -> None:
        """Raise the PruneError of a model that `compact` would refuse whatever its masks: before it is trained.

        `structure` has those of its units that are to be pruned.
        """
        return

    def check_masks(self, masks: MaskSet) -> None:
        """Raise the MaskError of masks that it is not for, though it accepts their granularities."""
        return

    def holding(self, neurons: Mapping[str, int]) -> Compactor:
        """The same, but that these feed-forward units, by key, hold so many neurons where their masks leave fewer.

        RecipeError from one that decides sizes by itself.
        """
        raise RecipeError(f"align: {type(self).__name__} decides sizes by itself: leave align out, or name another")

    @abstractmethod
    def compact(
        self, model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, *, inplace: bool = False
    ) -> Compaction:
        """The smaller model; `model` itself is left as it was unless `inplace`. MaskError where masks do not fit."""
