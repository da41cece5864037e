"""How scores that mean different things are compared: what the cut sorts instead of the bare scores."""

import torch
from torch import Tensor

from prune_core.granularity import Block
from prune_core.kit.cut import Slice


def shares(scores: Tensor, offset: float) -> Tensor:
    """The share of a group's scores that lie below each: one cut then keeps the same share of every group.

    `offset`, a part of a rank (0 to 1), tells groups of one size apart, so that a cut can fall between them.
    """
    flat = scores.flatten()
    ranks = torch.empty_like(flat, dtype=torch.double)
    ranks[flat.argsort(stable=True)] = torch.arange(len(flat), dtype=torch.double, device=flat.device) + offset
    return (ranks / len(flat)).view(scores.shape)


def in_multiples(scores: Tensor, multiple: int) -> Tensor:
    """One-dimensional scores such that any cut keeps a multiple of `multiple` of them (or all), the highest first.

    They are taken in bundles, from the highest down; each gets the middle score of its bundle.
    """
    ordered, order = scores.sort(descending=True, stable=True)
    place = torch.arange(len(scores), device=scores.device)
    middle = (place // multiple * multiple + multiple // 2).clamp(max=len(scores) - 1)
    return torch.empty_like(scores).scatter(0, order, ordered[middle])


def with_their_unit(scores: Tensor, slice: Slice) -> Tensor:
    """Scores of blocks, none above the mean of the head (or neuron) that it lies in; others as they are.

    A head that lives by the best of its dozens of blocks would outlive every neuron, which has one score: by their
    means the two compare, and a head that is cut takes all of its blocks along.
    """
    block = slice.target.granularity
    if not isinstance(block, Block):
        return scores
    size = block.height if slice.whole.axis == "rows" else block.width
    turned = slice.target.transposed != (slice.whole.axis == "columns")
    along = scores.T if turned else scores
    means = slice.whole.gather(along.mean(dim=1).repeat_interleave(size))[:, slice.part].mean(dim=1)
    bound = torch.minimum(along, slice.whole.spread(means).view(-1, size).amax(dim=1)[:, None])
    return bound.T if turned else bound
