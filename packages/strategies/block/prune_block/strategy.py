"""Block pruning: one score a block, in every linear."""

from collections.abc import Sequence
from typing import ClassVar

from prune_block.config import BlockConfig
from prune_core.granularity import Block
from prune_core.kit.layouts import joint, separate
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.scores import GroupPlan
from prune_core.structure import ModelStructure


class BlockPruning(MaskingStrategy):
    """Blocks of r x c weights everywhere. Zeros inside heads and neurons that stay are left out on disk."""

    config: BlockConfig
    sparse: ClassVar[bool] = True

    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        attention, ffn = Block(*self.config.attention_block), Block(*self.config.ffn_block)
        in_attention = [
            joint(unit, attention) if self.config.joint_attention else separate(unit, attention)
            for unit in structure.attention
        ]
        in_ffn = [separate(unit, ffn) for unit in structure.ffn]
        return [plan for plans in (*in_attention, *in_ffn) for plan in plans]
