"""Pools: the parts of a model that have a density of their own. One is the rule: the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor

from prune_core.errors import StructureError
from prune_core.kit.cut import Units
from prune_core.kit.scores import ScoreGroup
from prune_core.structure import ModelStructure, Unit

REST = ""
"""Name of the pool of all units that no part names."""


@dataclass(frozen=True)
class Pool:
    """Groups of scores that are cut together until `density` of the `total` prunable weights of `members` remains.

    `units` are what the cut removes: heads, neurons, blocks or single weights.
    """

    name: str
    density: float
    total: int
    members: tuple[Unit, ...]
    groups: tuple[ScoreGroup, ...]
    units: tuple[Units, ...]

    @cached_property
    def covered(self) -> int:
        """Weights under masks."""
        return self._count(torch.ones_like)

    @cached_property
    def held(self) -> int:
        """Weights under masks that may not go."""
        return self._count(torch.isposinf)

    @cached_property
    def gone(self) -> int:
        """Weights under masks that may not stay."""
        return self._count(torch.isneginf)

    @property
    def start(self) -> float:
        """The density before anything is cut."""
        return 1 - self.gone / self.total

    def budget(self, density: float) -> float:
        """Weights that may stay under the masks, so that `density` of all remains; StructureError for too few."""
        alone = self.total - self.covered
        if density * self.total < alone + self.held:
            parts = "parts left alone and the heads of rewind" if self.held else "parts left alone"
            raise StructureError(
                f"density {density} cannot be reached{self._where()}: the {parts} hold "
                f"{(alone + self.held) / self.total:.3f} of the prunable weights by themselves; exclude less or ask "
                "for more"
            )
        return density * self.total - alone

    def share(self, density: float) -> float:
        """The share of the weights under masks that may stay."""
        return self.budget(density) / self.covered

    def check_start(self) -> None:
        """StructureError where an earlier run left less than its density."""
        if self.density > self.start:
            raise StructureError(
                f"density {self.density} cannot be reached{self._where()}: strategy.within leaves {self.start:.3f} of "
                "the prunable weights; ask for less"
            )

    def _where(self) -> str:
        return f" in {self.name}" if self.name else ""

    def _count(self, which: Callable[[Tensor], Tensor]) -> int:
        lives = {group.plan.name: group.bounded.detach() for group in self.groups}
        return sum(unit.cost * int(which(unit.life(lives)).sum()) for unit in self.units)


def parted(structure: ModelStructure, parts: Mapping[str, float]) -> dict[str, tuple[Unit, ...]]:
    """The units of each part, by its glob, and the rest under REST where there is one.

    StructureError where a glob names no unit, or two name the same.
    """
    found: dict[str, list[Unit]] = {**{glob: [] for glob in parts}, REST: []}
    for unit in structure.units:
        globs = [glob for glob in parts if fnmatchcase(unit.key, glob)]
        if len(globs) > 1:
            raise StructureError(f"strategy.part_densities: {' and '.join(map(repr, globs))} both name {unit.key}")
        found[globs[0] if globs else REST].append(unit)
    for glob in parts:
        if not found[glob]:
            raise StructureError(
                f"strategy.part_densities: {glob!r} names no prunable unit; there are {', '.join(structure.keys())}"
            )
    return {glob: tuple(units) for glob, units in found.items() if units}


def nothing_removed(part: str) -> str:
    """What is wrong with a layout of which masks can remove nothing."""
    where = f"{part}: nothing" if part else "nothing"
    return (
        f"{where} would be removed: the layout masks no matrix that decides on a head or a neuron (value and output, "
        "up, gate and down); mask one, or leave zeros out on disk (`sparse`)"
    )
