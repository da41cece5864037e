"""Find plugins, load them one by one, isolate the broken ones, and report all of them."""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions
from types import ModuleType
from typing import Any

import pluggy
from pydantic import TypeAdapter, ValidationError

from prune_core import hookspecs
from prune_core.architectures import Architecture
from prune_core.errors import PluginError, PruneError, named, nearest
from prune_core.hookspecs import GROUP, CompactorSpec, StrategySpec, TaskSpec
from prune_core.recipe import explain

KINDS: dict[str, type] = {
    "strategies": StrategySpec,
    "compactors": CompactorSpec,
    "tasks": TaskSpec,
    "architectures": Architecture,
}
_SINGULAR = {"strategies": "strategy", "compactors": "compactor", "tasks": "task", "architectures": "architecture"}

Spec = StrategySpec | CompactorSpec | TaskSpec | Architecture

OURS = "prune-core"
"""The distribution that this is."""


@dataclass(frozen=True)
class Offer:
    """One thing that a plugin offers."""

    kind: str
    spec: Spec
    distribution: str
    version: str


@dataclass(frozen=True)
class NotLoaded:
    """A plugin, or one of its hooks, that could not be used: at which stage and why."""

    distribution: str
    entry_point: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"{self.distribution} ({self.entry_point}) was not loaded: {self.stage}: {self.reason}"


@dataclass(frozen=True)
class Plugins:
    """Everything found: offers by kind and name, and what was not loaded.

    `described` is a layout that a recipe gives, for the one model that it is about: it goes before all families.
    """

    offers: tuple[Offer, ...]
    not_loaded: tuple[NotLoaded, ...]
    disabled: tuple[str, ...] = ()
    described: Architecture | None = None
    _by_name: dict[tuple[str, str], list[Offer]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for offer in self.offers:
            self._by_name.setdefault((offer.kind, offer.spec.name), []).append(offer)

    def names(self, kind: str) -> list[str]:
        """Names of a kind ("strategies", "compactors", "tasks", "architectures"), sorted."""
        return sorted({offer.spec.name for offer in self.offers if offer.kind == kind})

    def get(self, kind: str, name: str) -> Spec:
        """The spec of this name. PluginError when there is none, with names near it, or when it has two owners."""
        found = self._by_name.get((kind, name), [])
        if not found:
            raise PluginError(self._missing(kind, name))
        if len(found) > 1:
            raise _several_owners(f"{_SINGULAR[kind]} {name!r}", found)
        return found[0].spec

    def strategy(self, name: str) -> StrategySpec:
        spec = self.get("strategies", name)
        assert isinstance(spec, StrategySpec)
        return spec

    def task(self, name: str) -> TaskSpec:
        spec = self.get("tasks", name)
        assert isinstance(spec, TaskSpec)
        return spec

    def load(self, kind: str, name: str) -> Any:
        """The class that the spec of this name points to; PluginError when it cannot be imported."""
        spec = self.get(kind, name)
        assert not isinstance(spec, Architecture)
        return import_target(spec.target)

    def families(self, model_type: str | None, owner: str | None = None) -> tuple[list[Architecture], str | None]:
        """Families that cover a type of model, and the one distribution that they are of: `owner`, if it has any.

        PluginError where several distributions claim the type, or the name of a family that covers it.
        """
        covering = [o for o in self.offers if isinstance(o.spec, Architecture) and model_type in o.spec.model_types]
        owners = {offer.distribution for offer in covering}
        if owner not in owners:
            if len(owners) > 1:
                raise _several_owners(f"model type {model_type!r}", covering)
            for offer in covering:
                self.get("architectures", offer.spec.name)
            owner = next(iter(owners), None)
        return [o.spec for o in covering if isinstance(o.spec, Architecture) and o.distribution == owner], owner

    def _missing(self, kind: str, name: str) -> str:
        known = self.names(kind)
        listed = ", ".join(known) if known else "none (pip install prune-hybrid, for instance)"
        message = f"unknown {_SINGULAR[kind]} {name!r}: {nearest(name, known)}installed: {listed}"
        disabled = [f"disabled: {', '.join(self.disabled)}"] if self.disabled else []
        return "; ".join([message, *disabled, *map(str, self.not_loaded)])


@lru_cache(maxsize=8)
def load_plugins(disabled: tuple[str, ...] = ()) -> Plugins:
    """Load every plugin but those of the `disabled` distributions and of PRUNE_DISABLE (comma-separated)."""
    off = {_normal(name) for name in (*disabled, *os.environ.get("PRUNE_DISABLE", "").split(",")) if name.strip()}
    offers: list[Offer] = []
    failures: list[NotLoaded] = []
    for distribution, version, entry in _entry_points():
        if _normal(distribution) in off:
            continue
        if entry.group != GROUP:
            reason = f"it is made for {entry.group}, this prune-core speaks {GROUP}: install a matching version"
            failures.append(NotLoaded(distribution, entry.name, "discovery", reason))
            continue
        with redirect_stdout(sys.stderr):
            _load(entry, distribution, version, offers, failures)
    failures.extend(_nowhere(off))
    return Plugins(tuple(offers), tuple(failures), tuple(sorted(off)))


def import_target(target: str) -> Any:
    """The object that "module:name" points to; PluginError with the import's own error when there is none."""
    try:
        module, _, name = target.partition(":")
        with redirect_stdout(sys.stderr):  # what a module prints is no answer to what was asked
            return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything while it is imported
        raise PluginError(f"{target} cannot be imported: {named(error)}") from error


def _entry_points() -> Iterator[tuple[str, str, EntryPoint]]:
    seen: set[tuple[str, str, str]] = set()
    for distribution in distributions():
        for entry in distribution.entry_points:
            key = (distribution.name, entry.group, entry.name)
            if re.fullmatch(r"prune\.v\d+", entry.group) and key not in seen:
                seen.add(key)
                yield distribution.name, distribution.version, entry


def _load(entry: EntryPoint, distribution: str, version: str, offers: list[Offer], failures: list[NotLoaded]) -> None:
    """One plugin in a manager of its own, so that its failure is nobody else's."""
    stage = "import"
    try:
        plugin = entry.load()
        stage = "registration"
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(plugin, name=entry.name)
        manager.check_pending()
        _refuse_near_misses(plugin)
    except (Exception, SystemExit) as error:  # whatever a plugin raises must not reach the others
        failures.append(NotLoaded(distribution, entry.name, stage, _reason(error)))
        return
    for kind, expected in KINDS.items():
        try:
            specs = [spec for answer in getattr(manager.hook, f"prune_{kind}")() for spec in answer]
            _check(specs, expected)
        except (Exception, SystemExit) as error:  # one raising hook must not discard the other hooks' answers
            failures.append(NotLoaded(distribution, entry.name, f"prune_{kind}", _reason(error)))
        else:
            offers.extend(Offer(kind, spec, distribution, version) for spec in specs)


def _reason(error: BaseException) -> str:
    """What went wrong: one line of an error of others, all of ours, which may name several fields."""
    return f"{type(error).__name__}: {error}" if isinstance(error, PruneError) else named(error)


def _refuse_near_misses(plugin: ModuleType | object) -> None:
    """A plugin that implements no hook at all is a mistake (a missing @hookimpl), which pluggy passes over."""
    hooks = [f"prune_{kind}" for kind in KINDS]
    marked = [name for name in dir(plugin) if hasattr(getattr(plugin, name), f"{GROUP}_impl")]
    unmarked = [name for name in hooks if hasattr(plugin, name) and name not in marked]
    if unmarked:
        raise PluginError(f"{', '.join(unmarked)} lacks @hookimpl")
    if not marked:
        raise PluginError(f"it implements none of {', '.join(hooks)}")


def _check(specs: Iterable[object], expected: type) -> None:
    for spec in specs:
        if not isinstance(spec, expected):
            raise PluginError(f"{spec!r} is a {type(spec).__name__}, a {expected.__name__} was expected")
        try:
            TypeAdapter(expected).validate_python(vars(spec))
        except ValidationError as error:
            raise PluginError(explain(error, expected, expected.__name__)) from error


def _nowhere(off: Iterable[str]) -> Iterator[NotLoaded]:
    """Names of distributions that are disabled and are not there: one of them may be misspelt."""
    found = {_normal(distribution.name) for distribution in distributions() if distribution.name}
    ours = sorted(name for name in found if name.startswith("prune-"))
    for name in sorted(set(off) - found):
        reason = f"no such distribution is installed; {nearest(name, ours)}PRUNE_DISABLE or plugins.disabled names it"
        yield NotLoaded(name, "disabled", "discovery", reason)


def _several_owners(what: str, offers: Iterable[Offer]) -> PluginError:
    """Names the owners, and as the one to disable any but the core, without which nothing runs."""
    owners = sorted(offer.distribution for offer in offers)
    other = next((owner for owner in owners if owner != OURS), owners[0])
    return PluginError(
        f"the {what} has several owners, {' and '.join(owners)}; disable one of them "
        f"(PRUNE_DISABLE={other}, or plugins.disabled in the recipe)"
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
