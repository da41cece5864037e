"""The plugin: what it offers, without importing it."""

from prune_core.hookspecs import StrategySpec, hookimpl


@hookimpl
def prune_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="block",
            summary="blocks of weights in every linear; smaller on disk, whole heads and neurons where they empty",
            config="prune_block.config:BlockConfig",
            target="prune_block.strategy:BlockPruning",
        )
    ]
