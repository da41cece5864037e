"""Files and folders that are whole or absent: written beside their place, then renamed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prune_core.errors import DataError, ModelError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_LEFT = re.compile(r"\.(.+)\.\d+\.(draft|old)")
"""Names of what is being written, and of what was set aside for it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft path beside `path` to write a file or folder to; on success it takes the place of `path`.

    Whatever stood at `path` stays until the draft is complete and on disk; a failure removes the draft. A kill while a
    folder changes places can leave it under another name: the next writer, or `remove_drafts`, puts it back. OSError
    when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    remove(draft)
    _settle(path)
    try:
        yield draft
        _flush(draft)
        if path.is_dir():
            _change_places(draft, path)
        else:
            draft.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    except OSError as error:
        if str(error.filename).startswith(str(draft)):  # which says nothing to whom asked for `path`
            error.filename = str(path)
        raise
    finally:
        remove(draft)


def refuse_occupied(folder: Path) -> None:
    """DataError where something stands already at the place of a folder that is to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already; choose another --output")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights of a model folder from: those of safetensors where there are any,
    else PyTorch's own, without the optimizers and arguments that lie beside them. ModelError when there are none.
    """
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    raise ModelError(f"{folder} holds no weights: no {' and no '.join(_WEIGHTS)}")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, a folder with all it holds, or a link and not what it points to; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_draft(path: Path) -> bool:
    """Whether a process that was killed left this of what it was writing."""
    left = _LEFT.fullmatch(path.name)
    return left is not None and left[2] == "draft"


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed left of what they were writing to `folder`.

    A folder that one of them had just set aside, with nothing in its place yet, gets its name back.
    """
    for path in list(folder.iterdir()):
        left = _LEFT.fullmatch(path.name)
        if left and left[2] == "old":
            _settle(folder / left[1])
        elif left:
            remove(path)


def _change_places(draft: Path, path: Path) -> None:
    """A folder cannot be renamed over another one: the old one steps aside, and comes back if the new one cannot."""
    try:
        path.rename(path.with_name(f".{path.name}.{os.getpid()}.old"))
        draft.rename(path)
    finally:
        _settle(path)


def _settle(path: Path) -> None:
    """Give a folder that was set aside its name back where nothing has taken it, else remove it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+\.old")
    for old in [other for other in path.parent.iterdir() if name.fullmatch(other.name)]:
        if path.exists():
            remove(old)
        else:
            old.rename(path)


def _flush(draft: Path) -> None:
    for file in [draft] if draft.is_file() else [f for f in draft.rglob("*") if f.is_file()]:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
