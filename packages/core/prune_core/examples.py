"""Training examples that carry their number, so that what is known of one is found again in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as Examples

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLE = "example"
"""Name, in a batch, of the numbers of its examples."""


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


def numbered(collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """A task's `collate` whose batches hold the numbers of their examples, where the features carry them."""

    def collated(features: list[dict[str, Any]]) -> dict[str, Tensor]:
        numbers = [one[EXAMPLE] for one in features if EXAMPLE in one]
        batch = collate([{name: value for name, value in one.items() if name != EXAMPLE} for one in features])
        return {**batch, EXAMPLE: torch.tensor(numbers)} if numbers else batch

    return collated


def parted(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    """What of a batch a model takes, and the numbers of its examples, if it holds them."""
    return {name: value for name, value in batch.items() if name != EXAMPLE}, batch.get(EXAMPLE)
