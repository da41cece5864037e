"""A folder that one process alone writes to."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prune_core.errors import RunError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process, made where it is not there; one that was made and stayed empty goes again.

    The operating system holds the lock, so that of a process that was killed binds nobody. RunError where the folder
    cannot be made or written to, or where another process holds it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, blocking=False)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder} is in use by {_holder(file)}: wait for its end, or choose another --output"
        ) from error
    except OSError as error:
        reason = f"{folder} is a file" if folder.is_file() else f"{folder} cannot be written to: {error.strerror}"
        raise RunError(f"{reason}; choose another --output") from error
    try:
        file.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # that they are not empty is the rule
            for path in made:
                path.rmdir()


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
