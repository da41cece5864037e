"""Proof that exported files compute in their runtime what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.errors import VerificationError, foreign
from prune_core.exporting.formats import Runtime
from prune_core.exporting.trace import Batch, Forward
from prune_core.verification.verify import largest_difference, tolerance, without_padding

_UNWRITTEN = "nothing was written; try another --format, or report it with the versions of torch and of the runtime"


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of any output, what is allowed (1e-4 of the largest value, or of 1), and on how many
    inputs, in batches of which shapes. What lies at padding does not count.
    """

    difference: float
    tolerance: float
    samples: int
    shapes: tuple[dict[str, tuple[int, ...]], ...]


def prove(runtime: Runtime, model: PreTrainedModel, batches: Sequence[Batch]) -> Parity:
    """Compare both in float32 on `batches`: the first is the one that was traced, the others are of other sizes.

    VerificationError where an output differs, or the runtime fails.
    """
    expected = [reference(model, batch) for batch in batches]
    with foreign(VerificationError, f"what was exported does not run; {_UNWRITTEN}", passing=()):
        found = [runtime(batch) for batch in batches]
    parity = _compared(expected, found, batches)
    if not parity.difference <= parity.tolerance:
        raise VerificationError(
            f"what was exported puts out something else: a difference of {parity.difference:.2e} (at most "
            f"{parity.tolerance:.2e}) on {parity.samples} inputs; {_UNWRITTEN}"
        )
    return parity


def reference(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """What the model itself puts out, by name."""
    with torch.inference_mode():
        return Forward(model, tuple(batch)).outputs(batch)


def _compared(
    expected: list[dict[str, Tensor]],
    found: list[dict[str, Tensor]],
    batches: Sequence[Batch],
) -> Parity:
    triples = zip(expected, found, batches, strict=True)
    pairs = [(one[name], other[name], batch) for one, other, batch in triples for name in one]
    for one, other, _ in pairs:
        if one.shape != other.shape:
            raise VerificationError(
                f"what was exported puts out a tensor of shape {list(other.shape)}, the model one of "
                f"{list(one.shape)}; {_UNWRITTEN}"
            )
    wanted = [without_padding(one, batch) for one, _, batch in pairs]
    there = [without_padding(other, batch) for _, other, batch in pairs]
    return Parity(
        difference=largest_difference(wanted, there),
        tolerance=tolerance(wanted),
        samples=sum(len(next(iter(batch.values()))) for batch in batches),
        shapes=tuple({name: tuple(value.shape) for name, value in batch.items()} for batch in batches),
    )
