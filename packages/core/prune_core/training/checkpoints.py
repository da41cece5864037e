"""Checkpoints: which is the last whole one, how far it is, which are kept."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from prune_core.files import write_text

logger = logging.getLogger(__name__)

KEPT = 2
NEEDED = ("*model*", "optimizer*", "scheduler.pt", "trainer_state.json")


def last(folder: Path) -> Path | None:
    """The last checkpoint of which every file can be read, None where there is none; a warning names damaged ones."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        found = damage(checkpoint)
        if not found:
            return checkpoint
        logger.warning("%s is damaged (%s): the one before it is taken, if there is one", checkpoint, ", ".join(found))
    return None


def damage(checkpoint: Path) -> list[str]:
    """What of a checkpoint cannot be read, or is not there."""
    if not checkpoint.is_dir():
        return ["it is gone"]
    return [*_missing(checkpoint), *(path.name for path in sorted(checkpoint.iterdir()) if not is_whole(path))]


def state_of(checkpoint: Path) -> TrainerState:
    """Where a training was when it saved this checkpoint, and its log."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def is_whole(path: Path) -> bool:
    """Whether a file of weights, of PyTorch or of JSON can be read; others are taken to be whole."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # which looks at the header, and at the size that it promises
                return True
        if path.suffix in (".pt", ".pth"):  # torch writes zip files, with sums of what is in them
            with zipfile.ZipFile(path) as file:
                return file.testzip() is None
        if path.suffix == ".json":
            return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile, zlib.error):  # too short, or not of its kind
        return False
    return True


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


def _missing(checkpoint: Path) -> list[str]:
    """Patterns of what a training cannot go on without: the Trainer would begin it anew without a word."""
    return [f"no {pattern}" for pattern in NEEDED if not any(checkpoint.glob(pattern))]
