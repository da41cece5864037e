"""Tables of what plugins offer of one kind, and of every field of one: `prune strategies` and `prune tasks`."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from prune_cli import render
from prune_cli.schema import fields
from prune_core.plugins import load_plugins
from prune_core.runs.configuring import strategy_config_class, task_config_class

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class Kind:
    """A kind of offers: its name among the plugins, that of one, and the verb's flag and section of the recipe."""

    plural: str
    singular: str

    def config_class(self, name: str) -> type["BaseModel"]:
        """The configuration of the offer of this name; PluginError where there is none."""
        find = strategy_config_class if self.plural == "strategies" else task_config_class
        return find(name, load_plugins())


STRATEGIES = Kind("strategies", "strategy")
TASKS = Kind("tasks", "task")


def show(kind: Kind, name: str | None, json: bool) -> None:
    """Print the offers of a kind, or every field of the one of this name."""
    if name is None:
        _list(kind, json)
    else:
        _fields(kind, name, json)


def _list(kind: Kind, json: bool) -> None:
    names = ("name", "summary", "distribution", "version")
    plugins = load_plugins()
    offers = sorted((o for o in plugins.offers if o.kind == kind.plural), key=lambda o: (o.spec.name, o.distribution))
    rows = [(o.spec.name, getattr(o.spec, "summary", ""), o.distribution, o.version) for o in offers]
    if json:
        render.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    render.print_table(kind.plural.capitalize(), names, rows)
    typer.echo(f"Every field of one: prune {kind.plural} NAME. Use one: prune run --{kind.singular} NAME")
    for failure in plugins.not_loaded:
        typer.echo(f"prune: {failure}", err=True)


def _fields(kind: Kind, name: str, json: bool) -> None:
    rows = [asdict(field) for field in fields(kind.config_class(name).model_json_schema())]
    spec = load_plugins().get(kind.plural, name)
    defaults = dict(getattr(spec, "defaults", {}))
    if json:
        render.print_json({"name": name, "fields": rows, **({"defaults": defaults} if defaults else {})})
        return
    cells = [["none" if value is None else value for value in row.values()] for row in rows]
    header = ("name", "type", "default", "allowed", "description")
    render.print_table(f"{name}: {getattr(spec, 'summary', '')}", header, cells)
    for section, values in defaults.items():
        listed = ", ".join(f"{section}.{key}={value}" for key, value in values.items())
        typer.echo(f"It starts from {listed}")
    typer.echo(f"Set one: prune run --{kind.singular} {name} --set {kind.singular}.FIELD=VALUE")
