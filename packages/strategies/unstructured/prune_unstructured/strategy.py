"""Unstructured pruning: every weight has a score of its own."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from prune_core.granularity import NM, Element
from prune_core.kit import binarizers
from prune_core.kit.layouts import elements
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.pools import Pool
from prune_core.kit.scores import GroupPlan
from prune_core.structure import ModelStructure
from prune_unstructured.config import UnstructuredConfig


class Unstructured(MaskingStrategy):
    """Movement pruning of single weights; with a pattern, n of every m weights along the inputs survive."""

    config: UnstructuredConfig
    sparse: ClassVar[bool] = True

    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        return elements(structure, NM(*self.config.group) if self.config.pattern else Element())

    def cut(self, pool: Pool, density: float, *, exact: bool) -> list[Tensor]:
        """With a pattern: the n best of every m always stay, the best of the others until the schedule is over."""
        if not self.config.pattern:
            return super().cut(pool, density, exact=exact)
        masks = []
        for group in pool.groups:
            best = binarizers.n_of_m(group.scores, *self.config.group)
            others = group.scores.masked_fill(best > 0, torch.inf)
            masks.append(binarizers.topk(others, density))
        return masks
