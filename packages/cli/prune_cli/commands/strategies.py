"""prune strategies: what can be asked for, and every field of one."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.plugins import Plugins


def strategies(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show every field of this one. Example: hybrid")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the strategies that are installed, or every field of one."""
    from prune_core.plugins import load_plugins

    if name is None:
        _list(load_plugins(), json)
    else:
        _fields(load_plugins(), name, json)


def _list(plugins: "Plugins", json: bool) -> None:
    from prune_cli import render

    names = ("name", "summary", "distribution", "version")
    offers = sorted((o for o in plugins.offers if o.kind == "strategies"), key=lambda o: (o.spec.name, o.distribution))
    rows = [(o.spec.name, getattr(o.spec, "summary", ""), o.distribution, o.version) for o in offers]
    if json:
        render.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    render.print_table("Strategies", names, rows)
    typer.echo("Every field of one: prune strategies NAME. Use one: prune run --strategy NAME")
    for failure in plugins.not_loaded:
        typer.echo(f"prune: {failure}", err=True)


def _fields(plugins: "Plugins", name: str, json: bool) -> None:
    from prune_cli import render
    from prune_cli.schema import fields
    from prune_core.configuring import strategy_config_class

    rows = [asdict(field) for field in fields(strategy_config_class(name, plugins).model_json_schema())]
    if json:
        render.print_json({"name": name, "fields": rows})
        return
    summary = plugins.strategy(name).summary
    cells = [["none" if value is None else value for value in row.values()] for row in rows]
    render.print_table(f"{name}: {summary}", ("name", "type", "default", "allowed", "description"), cells)
    typer.echo(f"Set one: prune run --strategy {name} --set strategy.FIELD=VALUE")
