"""prune strategies: what can be asked for, and every field of one."""

from typing import Annotated

import typer

from prune_cli import options


def strategies(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show every field of this one. Example: hybrid")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the strategies that are installed, or every field of one."""
    from prune_cli import offers

    offers.show(offers.STRATEGIES, name, json)
