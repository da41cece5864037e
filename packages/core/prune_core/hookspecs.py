"""The hooks of the entry-point group `prune.v1`. They return light specs; a class is imported when it is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from prune_core.architectures import Architecture

GROUP = "prune.v1"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class StrategySpec:
    """A strategy: `config` and `target` are "module:Class" of its StrategyConfig and its Strategy."""

    name: str
    summary: str
    config: str
    target: str


@dataclass(frozen=True)
class CompactorSpec:
    """A compactor: `target` is "module:Class"."""

    name: str
    summary: str
    target: str


@dataclass(frozen=True)
class TaskSpec:
    """A task: `config` and `target` are "module:Class" of its TaskConfig and its Task.

    `defaults` is a part of a recipe that everything else said is laid over, such as the data set of a benchmark:
    {"task": {"dataset": "rajpurkar/squad"}, "training": {"learning_rate": 3e-5}}. Data named otherwise replace it.
    """

    name: str
    summary: str
    target: str
    config: str = "prune_core.task:TaskConfig"
    defaults: Mapping[str, Any] = field(default_factory=dict)


@hookspec
def prune_strategies() -> list[StrategySpec]:
    """Strategies that this plugin offers."""
    return []


@hookspec
def prune_compactors() -> list[CompactorSpec]:
    """Compactors that this plugin offers."""
    return []


@hookspec
def prune_tasks() -> list[TaskSpec]:
    """Tasks that this plugin offers."""
    return []


@hookspec
def prune_architectures() -> list[Architecture]:
    """Families of models that this plugin describes."""
    return []
