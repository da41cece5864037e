"""prune verify: masked model = compact model = reloaded model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.verification.verify import Verification


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run. Example: runs/first")],
    json: options.Json = False,
) -> None:
    """Check that the masked, the compact and the reloaded model of RUN compute the same function on real inputs.

    A fill changes the weights by intention: before it masked = compact is checked, and that no file of RUN/model has
    changed since the run reloaded it and found the outputs equal.
    """
    from dataclasses import asdict

    from prune_cli import render
    from prune_core.errors import VerificationError
    from prune_core.runs.verifying import verify_run

    found = verify_run(run)
    if json:
        render.print_json({**asdict(found), "passed": found.passed})
    else:
        _table(run, found)
    if not found.passed:
        raise VerificationError(f"{run}: {found.fault}")


def _table(run: Path, found: "Verification") -> None:
    from prune_cli import render

    rows = [
        ("masked = compact (before a fill)", "largest difference", found.masked_vs_compact, found.tolerance),
        ("compact = reloaded", "largest difference", found.compact_vs_reloaded, 0.0),
        ("RUN/model is as the run wrote it", "files that changed", len(found.changed), 0),
    ]
    title = f"{run}: {'verified' if found.passed else 'NOT the same function'} on {found.samples} inputs"
    render.print_table(title, ["claim", "by", "found", "allowed"], rows)
