"""prune verify: masked model = compact model = reloaded model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_cli import options

if TYPE_CHECKING:
    from prune_core.verify import Verification


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run. Example: runs/first")],
    json: options.Json = False,
) -> None:
    """Check on real inputs that the masked, the compact and the reloaded model of RUN compute the same function."""
    from dataclasses import asdict

    from prune_core.errors import VerificationError
    from prune_core.verify import verify_run

    from prune_cli import render

    found = verify_run(run)
    if json:
        render.print_json(asdict(found))
    else:
        _table(run, found)
    if not found.passed:
        worst = max(found.masked_vs_compact, found.compact_vs_reloaded)
        raise VerificationError(f"{run}: outputs differ by {worst:.3g}, {found.tolerance:.3g} is allowed")


def _table(run: Path, found: "Verification") -> None:
    from prune_cli import render

    rows = [
        ("masked = compact", found.masked_vs_compact, found.tolerance),
        ("compact = reloaded", found.compact_vs_reloaded, found.tolerance),
    ]
    title = f"{run}: {'verified' if found.passed else 'NOT the same function'} on {found.samples} samples"
    render.print_table(title, ["claim", "largest difference", "allowed"], rows)
