"""In which order a training and an evaluation see their examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset


class ByLength(LengthGroupedSampler):
    """Texts of like lengths together, in an order that follows from seed and epoch alone, so that it can be resumed."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return super().__iter__()  # type: ignore[no-any-return, no-untyped-call]


class InOrder(Sampler[int]):
    """The examples in a given order."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def is_text(features: Dataset) -> bool:
    """Whether features are tokens, of one text each."""
    return "input_ids" in features.column_names


def lengths_of(features: Dataset) -> list[int]:
    """Number of tokens of each example."""
    return pc.list_value_length(features.with_format("arrow")[:]["input_ids"]).to_pylist()  # type: ignore[no-any-return]
