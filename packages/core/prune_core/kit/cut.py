"""The cut: which score to cut at, so that what physically remains is a given number of weights.

A physical unit is what is stored or removed as one: a head, a neuron, or, where zeros are left out on disk, a block or
a single weight. Each has a life, the highest threshold that it survives, and a cost in weights. Sorting the lives and
adding up the costs gives the threshold exactly, with no search and no synchronisation with the device.

Lives are read from a ranking: the scores of every group as they are compared with each other (see kit/ranking.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from prune_core.granularity import Head, Neuron, Shape
from prune_core.kit.binarizers import smallest
from prune_core.kit.scores import ScoreGroup, Target
from prune_core.linears import linear
from prune_core.structure import WHOLE, Place, Unit

SAMPLE = 1 << 16
"""While masks still move, more scores than this are cut by a strided sample (density within about 0.002)."""

Ranking = Mapping[str, Tensor]
"""Name of a group -> its scores as they are compared with those of the other groups."""


class Units(Protocol):
    """Physical units of one kind: the weights that each holds, and the threshold up to which each lives."""

    @property
    def cost(self) -> int:
        """Weights that one unit holds."""

    def life(self, ranking: Ranking) -> Tensor:
        """Highest threshold that each unit survives; shape [units]."""


@dataclass(frozen=True)
class OwnUnits:
    """Every score of a group is a unit of its own."""

    group: ScoreGroup

    @property
    def cost(self) -> int:
        return self.group.cost

    def life(self, ranking: Ranking) -> Tensor:
        return ranking[self.group.plan.name].flatten()


@dataclass(frozen=True)
class Slice:
    """Where one matrix of a unit has its scores: `whole` says which rows (or columns) belong to one physical unit.

    `part`: those of them that decide on it, where the matrix is several in one.
    """

    group: ScoreGroup
    target: Target
    shape: Shape
    whole: Head | Neuron
    part: slice

    def scores(self, ranking: Ranking) -> Tensor:
        """The group's ranking as the matrix's granularity reads it."""
        return self.target.orient(ranking[self.group.plan.name])

    def life(self, ranking: Ranking) -> Tensor:
        """Highest threshold at which a weight of each physical unit's slice survives."""
        lines = self.target.granularity.lines(self.scores(ranking), self.shape, self.whole.axis)
        return self.whole.gather(lines)[:, self.part].amax(dim=1)


@dataclass(frozen=True)
class SlicedUnits:
    """Heads or neurons that several matrices decide: one lives while all of its slices have a weight left.

    For a head those are its value rows and its output columns (a head without query or key still averages its values,
    so it stays); for a neuron its rows of up and gate and its column of down.
    """

    slices: tuple[Slice, ...]
    cost: int

    def life(self, ranking: Ranking) -> Tensor:
        return torch.stack([one.life(ranking) for one in self.slices]).amin(dim=0)


@dataclass(frozen=True)
class StoredWeights:
    """Single weights of one matrix where zeros are left out: one is stored while its score and its owner live.

    `owners` are None where no mask decides on the heads or neurons of the unit: they always live.
    """

    slice: Slice
    owners: SlicedUnits | None
    cost: int = 1

    def life(self, ranking: Ranking) -> Tensor:
        own = self.slice.target.granularity.expand(self.slice.scores(ranking), self.slice.shape)
        if self.owners is None:
            return own.flatten()
        owner = self.slice.whole.expand(self.owners.life(ranking), self.slice.shape)
        return torch.minimum(own, owner).flatten()

    def stored(self, ranking: Ranking, threshold: Tensor) -> Tensor:
        """1 for each score of the group of which a weight of this matrix is stored; of the group's shape."""
        alive = (self.life(ranking) > threshold).view(self.slice.shape)
        scores = self.slice.target.granularity.reduce(alive.float()) > 0
        return self.slice.target.orient(scores.float())


def sliced_units(model: nn.Module, unit: Unit, groups: Iterable[ScoreGroup]) -> SlicedUnits | None:
    """The heads (key/value heads with their queries) or neurons of `unit`; None where no group masks it."""
    slices = _slices(model, unit, unit.deciding() if unit.count else (), groups)
    if not slices:
        return None
    return SlicedUnits(slices, sum(linear(model, name).weight.numel() for name in unit.linears()) // unit.count)


def stored_weights(model: nn.Module, unit: Unit, groups: Sequence[ScoreGroup]) -> list[StoredWeights]:
    """The single weights of every matrix of `unit` that a group masks."""
    owners = sliced_units(model, unit, groups)
    places = [(name, WHOLE) for name in unit.linears()]
    return [StoredWeights(one, owners) for one in _slices(model, unit, places, groups)]


def _slices(model: nn.Module, unit: Unit, places: Iterable[Place], groups: Iterable[ScoreGroup]) -> tuple[Slice, ...]:
    """Those of `places` that a group masks."""
    masked = {target.module: (group, target) for group in groups for target in group.plan.targets}
    return tuple(
        Slice(*masked[name], tuple(linear(model, name).weight.shape), unit.slice_of(name), part)
        for name, part in places
        if name in masked
    )


def cut_threshold(units: Sequence[Units], ranking: Ranking, budget: float, *, exact: bool = True) -> Tensor:
    """Threshold t such that the units with life > t hold at most `budget` weights, and one more would not fit.

    A scalar tensor on the device of the ranking. With `exact=False` a large number of equal units may be sampled.
    """
    lives = [unit.life(ranking) for unit in units]
    costs = {unit.cost for unit in units}
    if len(costs) == 1:
        return _kth(lives, budget / costs.pop(), exact)
    life = torch.cat(lives)
    exactly = [one.new_full(one.shape, unit.cost, dtype=torch.double) for one, unit in zip(lives, units, strict=True)]
    life, order = life.sort(descending=True, stable=True)
    kept = (torch.cat(exactly)[order].cumsum(0) <= budget).sum()
    return torch.cat([life, life.new_full((1,), -torch.inf)]).gather(0, kept.view(1)).squeeze(0)


def _kth(lives: Sequence[Tensor], count: float, exact: bool) -> Tensor:
    """The highest life that is cut when `count` units of one cost are kept."""
    total = sum(life.numel() for life in lives)
    if count >= total:
        return lives[0].new_full((), -torch.inf)
    stride = 1 if exact else max(total // SAMPLE, 1)
    life = torch.cat([one[::stride] for one in lives])
    count *= life.numel() / total
    return smallest(life, max(life.numel() - int(count + 1e-6), 1))
