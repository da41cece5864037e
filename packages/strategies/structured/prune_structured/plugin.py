"""The plugin: what it offers, without importing it."""

from prune_core.hookspecs import StrategySpec, hookimpl


@hookimpl
def prune_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="structured",
            summary="whole heads and whole neurons",
            config="prune_structured.config:StructuredConfig",
            target="prune_structured.strategy:Structured",
        )
    ]
