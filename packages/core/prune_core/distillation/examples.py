"""Training examples that carry their number, and what a batch of them holds beside the tensors that a model takes.

All of that is known where the batch is made, in the main memory; asked of a device later on, it would be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as Examples

from prune_core.task import ITEMS

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.distillation.teacher import Teacher
    from prune_core.task import Task

EXAMPLE = "example"
"""Name, in a training example, of its number."""
BESIDE = "beside"
"""Name, in a training batch, of its `Beside`."""


@dataclass(frozen=True)
class Beside:
    """What is known of a training batch: the numbers of its examples, how many it holds of what the parts of its loss
    are means over, by name, and the places [n], among batch * tokens, of those that count for the task; None for all.
    """

    examples: Sequence[int]
    counts: Mapping[str, int]
    places: Tensor | None = None

    def to(self, device: torch.device, **options: Any) -> Beside:
        """With its places on a device, as loaders send whatever can be sent."""
        return self if self.places is None else replace(self, places=self.places.to(device, **options))

    def pin_memory(self) -> Beside:
        """With its places in pinned memory, as loaders pin whatever can be pinned."""
        return self if self.places is None else replace(self, places=self.places.pin_memory())


class Numbered(Examples[dict[str, Any]]):
    """Features that carry their number beside them."""

    def __init__(self, features: Dataset) -> None:
        self.features = features

    @property
    def column_names(self) -> list[str]:
        return list(self.features.column_names)

    def with_format(self, kind: str) -> Any:
        """The features alone, as data sets know them."""
        return self.features.with_format(kind)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.features[index], EXAMPLE: index}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Those of a batch, read at once."""
        rows = self.features.__getitems__(indices)
        return [{**row, EXAMPLE: index} for row, index in zip(rows, indices, strict=True)]


def noted(task: Task, teacher: Teacher | None = None) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A task's `collate` whose batches of numbered features hold a `Beside`, for a training with this teacher."""

    def collated(features: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [one[EXAMPLE] for one in features if EXAMPLE in one]
        batch = task.collate([{name: value for name, value in one.items() if name != EXAMPLE} for one in features])
        return {**batch, BESIDE: _beside(task, teacher, batch, numbers)} if numbers else batch

    return collated


def parted(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Beside | None]:
    """What of a batch a model takes, and what lies beside it, if it is one of numbered examples."""
    return {name: value for name, value in batch.items() if name != BESIDE}, batch.get(BESIDE)


def places_of(counted: Tensor | None) -> Tensor | None:
    """Where a mask [batch, tokens] is set, among batch * tokens; counted at once, so a device is waited for."""
    return None if counted is None else counted.flatten().nonzero().flatten()


def _beside(task: Task, teacher: Teacher | None, batch: dict[str, Tensor], numbers: Sequence[int]) -> Beside:
    places = places_of(task.counted(batch))
    items = len(next(iter(batch.values()))) if places is None else len(places)
    return Beside(numbers, {ITEMS: items, **(teacher.counts(batch) if teacher is not None else {})}, places)
