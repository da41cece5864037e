from collections.abc import Sequence

from prune_core.kit.layouts import heads, neurons
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.scores import GroupPlan
from prune_core.structure import ModelStructure
from prune_magnitude.config import Config


class Magnitude(MaskingStrategy):
    config: Config

    def layout(self, structure: ModelStructure) -> Sequence[GroupPlan]:
        attention = [plan for unit in structure.attention for plan in heads(unit)] if self.config.attention else []
        return attention + [plan for unit in structure.ffn for plan in neurons(unit)]
