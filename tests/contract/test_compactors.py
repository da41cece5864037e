"""Our own compactor passes the contract that we publish."""

from prune_core.compaction.dense import DenseCompactor
from prune_core.compactor import Compactor
from prune_core.testing.contract import CompactorContract


class TestDense(CompactorContract):
    def compactor(self) -> Compactor:
        return DenseCompactor()


class TestDenseFused(TestDense):
    """Several matrices in one, and weights that are stored [in, out]."""

    families = ("gpt2", "phi3", "deberta")
