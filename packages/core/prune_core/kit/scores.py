"""A group of scores, the parameters that share it, and the mask that it stands for now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prune_core.granularity import Column, Granularity, Head, Neuron, Shape
from prune_core.kit import binarizers

Part = Literal["attention", "ffn"]


@dataclass(frozen=True)
class Target:
    """One linear under a group's mask.

    `transposed`: the group's mask is turned (the attention output under a joint mask). `consumer`: it reads what the
    unit computes.
    """

    module: str
    granularity: Granularity
    transposed: bool = False
    consumer: bool = False

    def orient(self, values: Tensor) -> Tensor:
        """The group's scores or mask as this target's granularity reads them."""
        return values.T if self.transposed else values


@dataclass(frozen=True)
class GroupPlan:
    """A group to be: its name, the part of the model that it belongs to, and its targets.

    `narrows`: these are all linears of a feed-forward unit, by whole neurons, of which closed ones need no computing.
    """

    name: str
    part: Part
    targets: tuple[Target, ...]
    narrows: bool = False

    def scaled(self) -> tuple[Target, ...]:
        """Targets that a soft mask multiplies: whole inputs of the consumer alone, so that a unit is not scaled twice.

        A mask that cuts finer than whole units does not go with the consumer's: all targets then.
        """
        consumers = tuple(t for t in self.targets if t.consumer and isinstance(t.granularity, (Head, Neuron, Column)))
        return consumers or self.targets


class ScoreGroup(nn.Module):
    """Owner of the scores that several linears share, and of the mask now in force (float, of the scores' shape).

    `soft`: the mask is a hard concrete one, computed from the scores at every forward. `frozen`: the mask is final,
    no gradient reaches the scores. Both follow from the progress of the training, so neither is saved.
    `noise` is what makes gates random, of a group that is `gated`; others have none.
    `held` scores are never cut, `gone` ones never kept, whatever is learned; None where there are none.
    """

    scores: nn.Parameter
    mask: Tensor
    noise: Tensor
    held: Tensor | None
    gone: Tensor | None

    def __init__(self, plan: GroupPlan, scores: Tensor, cost: int, *, gated: bool = False) -> None:
        super().__init__()
        self.plan = plan
        self.cost = cost
        self.scores = nn.Parameter(scores)
        self.register_buffer("mask", torch.ones_like(scores))
        self.register_buffer("noise", torch.zeros_like(scores) if gated else None, persistent=False)
        for bound in ("held", "gone"):
            self.register_buffer(bound, None, persistent=False)
        self.soft = False
        self.frozen = False

    @property
    def bounded(self) -> Tensor:
        """The scores as they decide: infinite where that is decided already."""
        return self.ranked(self.scores)

    def ranked(self, values: Tensor) -> Tensor:
        """Values to sort by instead of the scores, above all others where held and below all others where gone."""
        return self._bounding(values, torch.inf, -torch.inf)

    def cut_to(self, mask: Tensor) -> Tensor:
        """A mask without what is gone and with what is held."""
        return self._bounding(mask, 1, 0)

    def _bounding(self, values: Tensor, held: float, gone: float) -> Tensor:
        """Values with these where it is decided already; of many single weights a copy costs, so none is made."""
        if self.held is not None:
            values = values.masked_fill(self.held, held)
        return values if self.gone is None else values.masked_fill(self.gone, gone)

    def current(self) -> Tensor:
        """The mask to apply now: the buffer itself, or a soft one, which is differentiable in the scores."""
        if self.frozen or not self.soft:
            return self.mask
        return binarizers.hard_concrete(self.bounded, self.noise) if self.training else self.soft_mean()

    def in_force(self) -> tuple[Tensor, Tensor | None]:
        """The mask to apply now, and what takes its gradient: the mask itself where it is soft, the scores where it
        is not (straight through; movement: dL/dS = dL/dW' * W), None once it is frozen.
        """
        current = self.current()
        if self.frozen:
            return current, None
        return current.detach(), current if self.soft else self.scores

    def soft_mean(self) -> Tensor:
        """The hard concrete mask of evaluation."""
        return binarizers.hard_concrete_mean(self.bounded)


PRIOR, TIES = 1.0, 1e-3
"""Width of the initial scores: a first order by magnitude that training must outvote, or just enough to break ties."""


def initial_scores(weights: Sequence[Tensor], plan: GroupPlan, start: float, width: float, shift: float) -> Tensor:
    """`start` plus up to `width` by rank of mean |weight|, so that a first cut is neither random nor all or nothing.

    `shift`, a share of a rank, tells groups of one size apart. Shape: that of the group's scores, float32.
    """
    targets = plan.targets
    shape: Shape = targets[0].granularity.score_shape(tuple(weights[0].shape))
    total = torch.zeros(shape)
    for weight, target in zip(weights, targets, strict=True):
        total += target.orient(target.granularity.reduce(weight.detach().float().abs().cpu())).reshape(shape)
    ranks = total.flatten().argsort().argsort().float()
    return start + width * ((ranks + 1 - shift) / ranks.numel()).view(shape)
