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

    from prune_cli import render
    from prune_core.errors import VerificationError
    from prune_core.verify import verify_run

    found = verify_run(run)
    if json:
        render.print_json({**asdict(found), "passed": found.passed})
    else:
        _table(run, found)
    if not found.passed:
        raise VerificationError(
            f"{run}: masked - compact {found.masked_vs_compact:.3g} (at most {found.tolerance:.3g}), "
            f"compact - reloaded {found.compact_vs_reloaded:.3g} (at most 0), on {found.samples} inputs"
        )


def _table(run: Path, found: "Verification") -> None:
    from prune_cli import render

    rows = [
        ("masked = compact", found.masked_vs_compact, found.tolerance),
        ("compact = reloaded", found.compact_vs_reloaded, 0.0),
    ]
    title = f"{run}: {'verified' if found.passed else 'NOT the same function'} on {found.samples} inputs"
    render.print_table(title, ["claim", "largest difference", "allowed"], rows)
