"""Hybrid pruning: blocks in attention, which empty whole heads, and whole neurons in the feed-forward part."""

from collections.abc import Sequence
from typing import ClassVar

from prune_core.granularity import Block
from prune_core.kit.layouts import joint, neurons, separate
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.scores import GroupPlan
from prune_core.structure import Attention, ModelStructure
from prune_hybrid.config import HybridConfig


class Hybrid(MaskingStrategy):
    """What counts as removed is whole heads and neurons; zero blocks inside kept heads are filled afterwards."""

    config: HybridConfig
    fills: ClassVar[bool] = True

    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        block = Block(*self.config.attention_block)
        attention = joint if self.config.joint_attention else separate
        return [
            plan
            for unit in structure.units
            for plan in (attention(unit, block) if isinstance(unit, Attention) else neurons(unit))
        ]
