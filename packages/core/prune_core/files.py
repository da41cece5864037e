"""Files and folders that are whole or absent: written beside their place, then renamed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft path beside `path` to write a file or folder to; on success it takes the place of `path`.

    Whatever stood at `path` stays until the draft is complete and on disk; a failure removes the draft. OSError when
    it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    _remove(draft)
    try:
        yield draft
        _flush(draft)
        if path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        _remove(draft)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed left of what they were writing to `folder`."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.\d+\.(draft|old)", path.name):
            _remove(path)


def _flush(draft: Path) -> None:
    for file in [draft] if draft.is_file() else [f for f in draft.rglob("*") if f.is_file()]:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
