"""prune plugins: what is installed, and what could not be loaded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.plugins import NotLoaded, Offer, Plugins


def plugins(
    json: options.Json = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Import everything offered; fail if anything is broken. Example: prune plugins --strict"
        ),
    ] = False,
) -> None:
    """List strategies, compactors, tasks and architectures by distribution, and the plugins that were not loaded."""
    from prune_cli import render
    from prune_core.plugins import load_plugins

    found = load_plugins()
    broken = [*found.not_loaded, *(_broken(found) if strict else ())]
    if json:
        render.print_json(_data(found, broken))
    else:
        _tables(found, broken)
    doubles = _doubles(found)
    if strict and (broken or doubles):
        _fail(broken, doubles)


def _data(found: "Plugins", broken: "list[NotLoaded]") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "offers": [dict(zip(_COLUMNS, _row(offer), strict=True)) for offer in _sorted(found)],
        "not_loaded": [asdict(failure) for failure in broken],
        "several_owners": _doubles(found),
        "disabled": list(found.disabled),
    }


_COLUMNS = ("distribution", "version", "kind", "name", "summary")


def _tables(found: "Plugins", broken: "list[NotLoaded]") -> None:
    from prune_cli import render

    render.print_table("Plugins", _COLUMNS, map(_row, _sorted(found)))
    if broken:
        rows = [(failure.distribution, failure.entry_point, failure.stage, failure.reason) for failure in broken]
        render.print_table("Not loaded", ("distribution", "entry point", "stage", "reason"), rows)
    for double in _doubles(found):
        typer.echo(f"{double}: unusable until one is disabled (PRUNE_DISABLE=distribution)")
    if found.disabled:
        typer.echo(f"disabled: {', '.join(found.disabled)}")


def _sorted(found: "Plugins") -> "list[Offer]":
    return sorted(found.offers, key=lambda offer: (offer.distribution, offer.kind, offer.spec.name))


def _row(offer: "Offer") -> tuple[str, ...]:
    from prune_core.architectures import Architecture

    spec = offer.spec
    summary = ", ".join(spec.model_types) if isinstance(spec, Architecture) else spec.summary
    return offer.distribution, offer.version, offer.kind, spec.name, summary


def _doubles(found: "Plugins") -> list[str]:
    """Names that several plugins claim, with their owners."""
    owners: dict[tuple[str, str], list[str]] = {}
    for offer in found.offers:
        owners.setdefault((offer.kind, offer.spec.name), []).append(offer.distribution)
    return [f"{kind} {name}: {' and '.join(o)}" for (kind, name), o in owners.items() if len(o) > 1]


def _broken(found: "Plugins") -> "Iterator[NotLoaded]":
    """What cannot be imported, or is no class of the kind that it is offered as."""
    from prune_core.errors import PluginError
    from prune_core.plugins import NotLoaded

    for offer in found.offers:
        try:
            _import(offer)
        except PluginError as error:
            yield NotLoaded(offer.distribution, f"{offer.kind} {offer.spec.name}", "target", str(error))


def _import(offer: "Offer") -> None:
    from prune_core.compactor import Compactor
    from prune_core.errors import PluginError
    from prune_core.plugins import import_target
    from prune_core.strategy import Strategy, StrategyConfig
    from prune_core.task import Task, TaskConfig

    for adapter in _adapters(offer):
        import_target(adapter)
    bases: dict[str, type] = {"strategies": Strategy, "compactors": Compactor, "tasks": Task}
    expected = {"target": bases.get(offer.kind), "config": TaskConfig if offer.kind == "tasks" else StrategyConfig}
    for attribute, base in expected.items():
        target = getattr(offer.spec, attribute, None)
        if target is None or base is None:
            continue
        found = import_target(target)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise PluginError(f"{target} is no {base.__name__}")


def _adapters(offer: "Offer") -> set[str]:
    from prune_core.architectures import Architecture

    stacks = offer.spec.stacks if isinstance(offer.spec, Architecture) else ()
    return {layout.adapter for stack in stacks for layout in stack.attention.values() if layout.adapter}


def _fail(broken: "list[NotLoaded]", doubles: list[str]) -> None:
    from prune_core.errors import PluginError

    names = sorted({failure.distribution for failure in broken})
    raise PluginError("; ".join([*(f"{name} is broken" for name in names), *doubles]))
