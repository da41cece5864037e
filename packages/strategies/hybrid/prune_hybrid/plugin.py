"""The plugin: what it offers, without importing it."""

from prune_core.hookspecs import StrategySpec, hookimpl


@hookimpl
def prune_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="hybrid",
            summary="blocks in attention, whole neurons in the feed-forward part, then fill",
            config="prune_hybrid.config:HybridConfig",
            target="prune_hybrid.strategy:Hybrid",
        )
    ]
