"""Costs on scores: L1 and L0 for an explicit weight, a Lagrangian for a target density."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from prune_core.kit.binarizers import open_probability


def l1(scores: Tensor) -> Tensor:
    """Mean of sigmoid(scores) (arXiv:2005.07683)."""
    return torch.sigmoid(scores).mean()


def l0(scores: Tensor) -> Tensor:
    """Expected share of open hard concrete gates (arXiv:1712.01312)."""
    return open_probability(scores).mean()


def open_count(scores: Tensor) -> Tensor:
    """1 where scores > 0, with the gradient of sigmoid(scores): a count that can be pressed on."""
    soft = torch.sigmoid(scores)
    return (scores > 0).to(scores.dtype) + soft - soft.detach()


def spent(groups: Iterable[tuple[float, Tensor]], count: Callable[[Tensor], Tensor]) -> Tensor:
    """What is open costs, of (cost of one score, scores) by `count`. Scores of one cost are counted at once."""
    scores: dict[float, list[Tensor]] = {}
    for cost, values in groups:
        scores.setdefault(cost, []).append(values.flatten())
    return torch.stack([cost * count(torch.cat(same)).sum() for cost, same in scores.items()]).sum()


class Lagrangian(nn.Module):
    """l1 (s - d) + l2 (s - d)^2, whose multipliers are ascended by the optimizer (arXiv:2204.00408, section 3.2).

    `target` is a buffer, so that it moves with the schedule without a new graph.
    """

    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.register_buffer("target", torch.ones(()))

    def forward(self, density: Tensor) -> Tensor:
        """The penalty of a (differentiable, scalar) density."""
        gap = density - self.target
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()
