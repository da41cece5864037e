"""The plugin: what it offers, without importing it."""

from prune_core.hookspecs import StrategySpec, hookimpl


@hookimpl
def prune_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="unstructured",
            summary="single weights anywhere, or n:m; smaller on disk, not faster by itself",
            config="prune_unstructured.config:UnstructuredConfig",
            target="prune_unstructured.strategy:Unstructured",
        )
    ]
