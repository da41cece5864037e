"""Checkpoints: which is the last whole one, how far it is, which are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from prune_core.files import write_text

KEPT = 2


def steps_done(checkpoint: str) -> tuple[int, int]:
    """Steps that a checkpoint was saved after, and all steps of its training."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"], state["max_steps"]


def forget(log: Path, stage: str, step: int) -> None:
    """Drop the log lines of steps that will be done again, and what a kill left of a line."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = [line for line in lines if line.endswith("}") and not _is_later(json.loads(line), stage, step)]
    if len(kept) < len(lines):
        write_text(log, "".join(f"{line}\n" for line in kept))


def _is_later(line: dict[str, Any], stage: str, step: int) -> bool:
    return bool(line["stage"] == stage and line["step"] > step)


def rotate(folder: Path) -> None:
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for old in checkpoints[:-KEPT]:
        shutil.rmtree(old)
