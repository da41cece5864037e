from prune_core.hookspecs import StrategySpec, hookimpl


@hookimpl
def prune_strategies() -> list[StrategySpec]:
    summary = "whole heads and neurons with the smallest weights; nothing is learned"
    return [StrategySpec("magnitude", summary, "prune_magnitude.config:Config", "prune_magnitude.strategy:Magnitude")]
