"""In which order a training and an evaluation see their examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
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
    """Whether features are tokens, of one text each or of several."""
    return "input_ids" in features.column_names


def lengths_of(features: Dataset) -> list[int]:
    """Number of tokens of each example; where it holds several texts, of the longest: they are padded to it."""
    ids = features.with_format("arrow")[:]["input_ids"]
    if not pa.types.is_nested(ids.type.value_type):
        return pc.list_value_length(ids).to_pylist()  # type: ignore[no-any-return]
    ids = ids.combine_chunks()
    lengths = pa.table({"row": pc.list_parent_indices(ids), "length": pc.list_value_length(pc.list_flatten(ids))})
    longest = lengths.group_by("row").aggregate([("length", "max")]).sort_by("row")
    return longest["length_max"].to_pylist()  # type: ignore[no-any-return]
