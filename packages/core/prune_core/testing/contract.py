"""What every strategy, compactor and family must do, as pytest suites. Subclass one and say what to test:

    class TestMine(StrategyContract):
        density = 0.5

        def strategy(self) -> Strategy:
            return Mine(MineConfig(density=0.5))

The models are tiny and random (`prune_core.testing.tiny`); a suite takes seconds.
"""

from prune_core.testing.compactor_contract import CompactorContract
from prune_core.testing.family_contract import FamilyContract
from prune_core.testing.strategy_contract import StrategyContract

__all__ = ["CompactorContract", "FamilyContract", "StrategyContract"]
