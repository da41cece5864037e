"""Our own strategies pass the contract that we publish."""

from prune_block.config import BlockConfig
from prune_block.strategy import BlockPruning
from prune_core.strategy import Strategy
from prune_core.testing.contract import StrategyContract
from prune_hybrid.config import HybridConfig
from prune_hybrid.strategy import Hybrid
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured
from prune_unstructured.config import UnstructuredConfig
from prune_unstructured.strategy import Unstructured


class TestStructured(StrategyContract):
    density = 0.5

    def strategy(self) -> Strategy:
        return Structured(StructuredConfig(density=0.5))


class TestHybrid(StrategyContract):
    density = 0.5

    def strategy(self) -> Strategy:
        return Hybrid(HybridConfig(density=0.5, attention_block=(8, 8)))


class TestBlock(StrategyContract):
    density = 0.5

    def strategy(self) -> Strategy:
        return BlockPruning(BlockConfig(density=0.5, attention_block=(8, 8), ffn_block=(8, 8)))


class TestUnstructured(StrategyContract):
    density = 0.3

    def strategy(self) -> Strategy:
        return Unstructured(UnstructuredConfig(density=0.3))
