"""Advice in words, from where the time of a model goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prune_core.measure.kinds import ACTIVATION, ATTENTION, BETWEEN, EMBEDDING, LINEAR, NORM, OTHER, OTHER_LINEAR

if TYPE_CHECKING:
    from prune_core.measure.explain import Explanation

_MUCH = 0.3
"""A kind that takes this part of the time bounds it."""
_SOME = 0.15
_SHORT = 20e-6
"""Seconds of an operation on the CPU that are little more than what it costs to call it."""
_BEHIND = 0.8
"""Linears that got faster by less than this part of what their sizes promise are behind."""


def advise(found: Explanation) -> tuple[str, ...]:
    """One sentence for each thing that bounds the model, the largest first; one that all is well where nothing does."""
    said = sorted(_bounds(found), reverse=True)
    return (*(sentence for _, sentence in said), _outlook(found))


def _bounds(found: Explanation) -> Iterator[tuple[float, str]]:
    yield from _launches(found)
    yield from _attention(found)
    yield from _untouched(found)
    yield from _behind(found)


def _launches(found: Explanation) -> Iterator[tuple[float, str]]:
    own, on_cuda = found.model, found.comparison.machine.device != "cpu"
    share, each = own.share(BETWEEN), own.seconds / max(own.operations, 1)
    if share < _MUCH and (on_cuda or each > _SHORT):
        return
    means = "CUDA graphs (prune bench --runtimes cuda-graphs), torch.compile" if on_cuda else "torch.compile, an export"
    what = f"{own.operations} {'kernels' if on_cuda else 'operations'} of {each * 1e6:.0f} microseconds"
    yield (
        1.0,
        f"launch-bound at batch {found.comparison.settings['batch_size']}: {what} ({found.baseline.operations} in the "
        f"baseline), and {share:.0%} of the time between them: {means}, fewer layers or larger batches help, fewer "
        "heads and neurons do not",
    )


def _attention(found: Explanation) -> Iterator[tuple[float, str]]:
    share, length = found.model.share(ATTENTION), found.comparison.settings["length"]
    if share >= _MUCH:
        yield (
            share,
            f"attention-bound: {share:.0%} of the time is the attention itself, which grows with the square of the "
            f"length ({length}): fewer heads, shorter texts or a fused attention (prune bench --attention sdpa) help",
        )


_ADVICE = {
    NORM: "simplify.no_norm turns norms into affine layers while a model is fine-pruned",
    ACTIVATION: "fewer neurons, or simplify.relu for a cheaper one",
    EMBEDDING: "pruning leaves them as they are: a smaller hidden size helps, or longer work for each text",
    OTHER_LINEAR: "heads and projections on a vocabulary are not pruned: prune trim makes a vocabulary smaller",
    OTHER: "sums, copies and masks, which torch.compile fuses",
}


def _untouched(found: Explanation) -> Iterator[tuple[float, str]]:
    for kind, means in _ADVICE.items():
        share = found.model.share(kind)
        if share >= _MUCH or (kind == NORM and share >= _SOME):
            yield share, f"{kind}: {share:.0%} of the time: {means}"


def _behind(found: Explanation) -> Iterator[tuple[float, str]]:
    """Linears that are not as much faster as they are smaller."""
    share, now = found.model.share(LINEAR), found.model.kinds[LINEAR]
    if found.weight_ratio is None or found.weight_ratio <= 1 or share < _MUCH or not now:
        return
    faster = found.baseline.kinds[LINEAR] / now
    if faster >= _BEHIND * found.weight_ratio:
        return
    fact = f"linears are {found.weight_ratio:.1f}x smaller and {faster:.1f}x faster"
    if found.ragged:
        yield (
            share,
            f"ragged sizes: {fact}, and {len(found.ragged)} of their sizes are no multiples of 8, such as "
            f"{found.ragged[0]}: one size for all layers (prune compact --uniform), or rounded ones, may help",
        )
    else:
        yield share, f"small matrices: {fact}: they are too small to fill the machine; larger batches help"


def _outlook(found: Explanation) -> str:
    """What pruning can still win."""
    return (
        f"{found.winnable:.0%} of the time is in what pruning makes smaller (linears, attention, activations): "
        f"{found.comparison.ratio} now, {found.limit:.1f}x if all of it were gone"
    )
