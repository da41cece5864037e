"""Scores -> masks. Every function is pure: it takes scores of any shape and returns a mask of that shape.

Masks are binary (float, 0 or 1) but for the hard concrete ones, which are soft while training.
Sources: movement pruning (arXiv:2005.07683), hard concrete (arXiv:1712.01312).
"""

import math

import torch
from torch import Tensor

from prune_core.granularity import Granularity

BETA = 2 / 3
LOW, HIGH = -0.1, 1.1
"""Temperature and stretch of the hard concrete distribution (arXiv:1712.01312, section 4)."""


def topk(scores: Tensor, density: float) -> Tensor:
    """Keep exactly round(density * n) of the n scores, the highest; among equal ones the first."""
    count = round(density * scores.numel())
    if not 0 < count < scores.numel():
        return torch.full_like(scores, float(count > 0))
    flat = scores.flatten()
    lowest = smallest(flat, flat.numel() - count + 1)
    above, equal = flat > lowest, flat == lowest
    kept = above | (equal & (equal.cumsum(0) <= count - above.sum()))
    return kept.view_as(scores).to(scores.dtype)


def smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest of a list. A GPU selects by one block of threads, and sorts by all (pytorch #75599)."""
    return values.sort().values[k - 1] if values.is_cuda else values.kthvalue(k).values


def above(scores: Tensor, cut: Tensor, out: Tensor | None = None) -> Tensor:
    """1 where scores > `cut`, a scalar, in `out` or in a tensor like them: no mask of booleans is made first."""
    return torch.gt(scores, cut, out=torch.empty_like(scores) if out is None else out)


def threshold(scores: Tensor, cut: float | Tensor, floor: float = 0.0) -> Tensor:
    """Keep scores > `cut`; at least the highest `floor` share (int(floor * n) + 1 of them) survives when floor > 0."""
    return _survivors(scores, scores > cut, floor)


def sigmoid_threshold(scores: Tensor, cut: float | Tensor, floor: float = 0.0) -> Tensor:
    """`threshold` on sigmoid(scores)."""
    return _survivors(scores, torch.sigmoid(scores) > cut, floor)


def magnitude(weight: Tensor, granularity: Granularity, density: float) -> Tensor:
    """`topk` on |weight| (its mean over what a score covers); nothing is learned."""
    return topk(granularity.reduce(weight.detach().abs()), density)


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """In each group of `m` along the last dimension keep the `n` highest; among equal ones the first."""
    groups = scores.reshape(*scores.shape[:-1], -1, m)
    ranks = groups.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (ranks < n).to(scores.dtype).view(scores.shape)


def hard_concrete(scores: Tensor, noise: Tensor) -> Tensor:
    """Soft mask while training: `noise` is log u - log(1 - u) of a uniform u. Differentiable in `scores`."""
    return _stretch(torch.sigmoid((noise + scores) / BETA))


def hard_concrete_mean(scores: Tensor) -> Tensor:
    """Soft mask in evaluation."""
    return _stretch(torch.sigmoid(scores))


def open_probability(scores: Tensor) -> Tensor:
    """Probability that a hard concrete gate is not zero: sigmoid(S - b log(-l / r))."""
    return torch.sigmoid(scores - BETA * math.log(-LOW / HIGH))


def _survivors(scores: Tensor, mask: Tensor, floor: float) -> Tensor:
    if floor > 0:
        mask = mask | (topk(scores, min((int(floor * scores.numel()) + 1) / scores.numel(), 1.0)) > 0)
    return mask.to(scores.dtype)


def _stretch(gate: Tensor) -> Tensor:
    return (gate * (HIGH - LOW) + LOW).clamp(0, 1)
