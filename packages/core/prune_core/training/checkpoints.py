"""Checkpoints: which is the last whole one, how far it is, which are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from prune_core.files import write_text

KEPT = 2


def last(folder: Path) -> Path | None:
    """The last whole checkpoint in a folder, None where there is none."""
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return Path(found) if found else None


def state_of(checkpoint: Path) -> TrainerState:
    """Where a training was when it saved this checkpoint, and its log."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def forget(log: Path, stage: str, step: int) -> None:
    """Drop the log lines of steps that will be done again, and what a kill left of a line."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = [line for line in lines if line.endswith("}") and not _is_later(json.loads(line), stage, step)]
    if len(kept) < len(lines):
        write_text(log, "".join(f"{line}\n" for line in kept))


def take(drafts: Path, folder: Path) -> None:
    """Give whole checkpoints their places."""
    for checkpoint in drafts.glob("checkpoint-*"):
        shutil.rmtree(folder / checkpoint.name, ignore_errors=True)
        checkpoint.rename(folder / checkpoint.name)
    shutil.rmtree(drafts)


def rotate(folder: Path, best: int | None) -> None:
    """Remove all checkpoints but the last ones and the one of the best step."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
    for old in checkpoints[:-KEPT]:
        if _step(old) != best:
            shutil.rmtree(old)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_later(line: dict[str, Any], stage: str, step: int) -> bool:
    return bool(line["stage"] == stage and line["step"] > step)
