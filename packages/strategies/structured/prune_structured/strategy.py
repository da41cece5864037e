"""Structured pruning: one score a head, one a neuron."""

from collections.abc import Sequence

from prune_core.kit.layouts import head_slices, heads, neurons
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.scores import GroupPlan
from prune_core.structure import Attention, ModelStructure
from prune_structured.config import StructuredConfig


class Structured(MaskingStrategy):
    """Heads and feed-forward neurons come and go whole, so that the masked model is the compact one."""

    config: StructuredConfig

    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        attention = heads if self.config.attention == "heads" else head_slices
        return [
            plan
            for unit in structure.units
            for plan in (attention(unit) if isinstance(unit, Attention) else neurons(unit))
        ]
