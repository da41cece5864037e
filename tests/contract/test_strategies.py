"""Our own strategies pass the contract that we publish: by default, and with what else their configurations offer."""

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
    families = ("bert", "vit")
    density = 0.5

    def strategy(self) -> Strategy:
        return BlockPruning(BlockConfig(density=0.5, attention_block=(8, 8), ffn_block=(4, 8)))


class TestUnstructured(StrategyContract):
    families = ("bert", "vit")
    density = 0.3

    def strategy(self) -> Strategy:
        return Unstructured(UnstructuredConfig(density=0.3))


class Variant(StrategyContract):
    """One family is enough for another configuration of the same class."""

    families = ("bert",)


class TestStructuredByThreshold(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Structured(StructuredConfig(density=0.5, binarizer="threshold"))


class TestStructuredBySlices(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Structured(StructuredConfig(density=0.5, binarizer="threshold", attention="slices"))


class TestStructuredByPenalty(Variant):
    def strategy(self) -> Strategy:
        return Structured(StructuredConfig(penalty_weight=5.0))


class TestHybridJoint(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Hybrid(HybridConfig(density=0.5, attention_block=(4, 8), joint_attention=True))


class TestHybridByPenalty(Variant):
    def strategy(self) -> Strategy:
        return Hybrid(HybridConfig(penalty_weight=20.0, attention_block=(8, 8), binarizer="sigmoid_threshold"))


class TestHybridUnfrozen(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Hybrid(HybridConfig(density=0.5, attention_block=(8, 8), freeze=False, exclude=("layer.0.attention",)))


class TestBlockTopkLocal(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return BlockPruning(
            BlockConfig(density=0.5, attention_block=(8, 8), ffn_block=(8, 8), binarizer="topk", scope="local")
        )


class TestTwoOfFour(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Unstructured(UnstructuredConfig(pattern="2:4"))


class TestMagnitude(Variant):
    density = 0.3

    def strategy(self) -> Strategy:
        return Unstructured(UnstructuredConfig(density=0.3, binarizer="magnitude"))


class TestHardConcreteElements(Variant):
    density = 0.5

    def strategy(self) -> Strategy:
        return Unstructured(UnstructuredConfig(density=0.5, binarizer="hard_concrete"))
