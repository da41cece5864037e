"""Our own compactors pass the contract that we publish."""

from prune_core.compaction.dense import DenseCompactor
from prune_core.compaction.two_of_four import TwoOfFourCompactor
from prune_core.compaction.uniform import UniformCompactor
from prune_core.compactor import Compactor
from prune_core.testing.contract import CompactorContract


class TestDense(CompactorContract):
    def compactor(self) -> Compactor:
        return DenseCompactor()


class TestDenseFused(TestDense):
    """Several matrices in one, and weights that are stored [in, out]."""

    families = ("gpt2", "phi3", "deberta")


class TestUniform(CompactorContract):
    families = ("qwen2",)  # of those that the suite tests by default the one whose layers can all have fewer heads

    def compactor(self) -> Compactor:
        return UniformCompactor()


class TestTwoOfFour(CompactorContract):
    families = ("bert", "qwen2")

    def compactor(self) -> Compactor:
        return TwoOfFourCompactor()
