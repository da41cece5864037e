"""The verbs of the command line, and what they have in common."""

from typing import Annotated

import typer

from prune_cli.commands.bench import bench
from prune_cli.commands.compact import compact
from prune_cli.commands.evaluate import evaluate
from prune_cli.commands.explain import explain
from prune_cli.commands.export import export
from prune_cli.commands.inspect import inspect
from prune_cli.commands.plugins import plugins
from prune_cli.commands.run import run
from prune_cli.commands.strategies import strategies
from prune_cli.commands.tasks import tasks
from prune_cli.commands.trim import trim
from prune_cli.commands.verify import verify
from prune_cli.exit_codes import SUMMARY

app = typer.Typer(name="prune", pretty_exceptions_enable=False, epilog=SUMMARY)
for verb in (run, compact, trim, verify, evaluate, bench, explain, export, inspect, strategies, tasks, plugins):
    app.command()(verb)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"prune {version('prune-cli')} (prune-core {version('prune-core')})")
        raise typer.Exit


@app.callback()
def prune(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the versions, as in prune --version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error, as in prune --debug run recipe.yaml.")
    ] = False,
) -> None:
    """Make a Hugging Face transformer smaller and faster: fine-prune it, compact it, verify it, measure it.

    Start with `prune run`: with neither model nor task it prunes a small vision transformer in a few minutes.
    """
    from prune_core.malloc import keep_freed_memory

    keep_freed_memory()  # the process is ours, as it is not in what the verbs call
