"""Word embeddings rounded to few bits, and what that does to a model's outputs and size: measured, on real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune_core.embeddings.bits import form, round_embeddings, word_embeddings
from prune_core.verification.verify import largest_difference, outputs, without_padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Rounding:
    """Absolute differences that rounding made, beside the largest output, and bytes of the embeddings.

    `embeddings` are the names of the weights that were rounded; `in_full` are the task's figures before, where it was
    evaluated.
    """

    bits: int
    embeddings: tuple[str, ...]
    largest_difference: float
    mean_difference: float
    largest_output: float
    bytes_in_full: int
    bytes: int
    in_full: Mapping[str, float] = field(default_factory=dict)

    @property
    def saved(self) -> int:
        """How many bytes of a file rounding saved."""
        return self.bytes_in_full - self.bytes

    @property
    def change(self) -> str:
        """The differences, for people."""
        most, mean = f"{self.largest_difference:.1e} at most", f"{self.mean_difference:.1e} in the mean"
        return f"{most}, {mean} (outputs up to {self.largest_output:.3g})"


def round_measured(model: PreTrainedModel, bits: int, batches: Sequence[Mapping[str, Tensor]]) -> Rounding:
    """`round_embeddings`, and what it changed of the outputs for `batches`."""
    before, sizes = _of_tokens(model, batches), _bytes(model)
    names = round_embeddings(model, bits)
    after = _of_tokens(model, batches)
    difference = torch.cat([(one - other).abs().flatten() for one, other in zip(before, after, strict=True)])
    packed = [tensor for name in names for tensor in form(bits).pack(model.get_parameter(name)).values()]
    return Rounding(
        bits=bits,
        embeddings=names,
        largest_difference=largest_difference(before, after),
        mean_difference=float(difference.mean()),
        largest_output=max(float(one.abs().max()) for one in before),
        bytes_in_full=sizes,
        bytes=sum(tensor.nbytes for tensor in packed),
    )


def _of_tokens(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """All outputs but those of padding, in which a small change may become a large one."""
    return [without_padding(one, batch) for batch in batches for one in outputs(model, [batch])]


def _bytes(model: PreTrainedModel) -> int:
    return sum(model.get_parameter(name).nbytes for name in word_embeddings(model))
