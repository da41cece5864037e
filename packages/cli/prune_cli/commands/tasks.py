"""prune tasks: what can be asked for, and every field of one."""

from typing import Annotated

import typer

from prune_cli import options


def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show every field of this one. Example: squad")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the tasks that are installed, or every field of one."""
    from prune_cli import offers

    offers.show(offers.TASKS, name, json)
