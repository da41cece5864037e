"""What verbs print: rich tables for people, JSON for programs. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from prune_core.distributed.processes import is_main

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_A_PIPE = 200
_LONGEST_PATH = 40


def print_json(data: Any) -> None:
    """Plain data as JSON; paths become strings."""
    import json

    typer.echo(json.dumps(data, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; columns that hold numbers only stand to the right, what is None stays empty."""
    from rich.markup import escape
    from rich.table import Table

    body = [list(row) for row in rows]
    table = Table()
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in body)
        table.add_column(column, justify="right" if numeric else "left")
    for row in body:
        table.add_row(*(escape(text(value)) for value in row))
    typer.secho(title, bold=True)
    _console().print(table)


def text(value: object) -> str:
    """A cell: numbers to four significant digits, thousands in groups, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def short(path: str) -> str:
    """The end of a long path, to stand in a table."""
    parts = path.rsplit("/", 2)
    return path if len(path) <= _LONGEST_PATH or len(parts) < 3 else f".../{parts[-2]}/{parts[-1]}"


def pairs(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Nested mappings as dotted names and values."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def log_to_stderr() -> None:
    """Show what the library logs while a verb runs; only warnings of a process that is not the main one."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    logger = logging.getLogger("prune_core")
    if not logger.handlers:
        logger.addHandler(RichHandler(console=Console(stderr=True), show_path=False, show_level=False))
    logger.propagate = False  # absl, which counts ROUGE, gives the root logger a handler that shows each line again
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)
