"""What becomes of memory that a pass or a step frees on a CPU: glibc gives it back, or keeps it for the next one."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of mallopt(3)
LARGEST = 2**31 - 1
OLDER_LARGEST = 32 << 20
"""The largest block that older versions of glibc can be told to keep."""

_kept = False  # glibc cannot be asked


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back to the system, of the whole process and for good: the
    next pass asks for as much again, and the system would clear each page anew.

    Without glibc, or where the environment says already what shall be kept (MALLOC_... or GLIBC_TUNABLES), nothing
    happens; `freed_memory` says which it is.
    """
    global _kept
    if sys.platform != "linux" or _environment_says():
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    kept = any(libc.mallopt(MMAP_THRESHOLD, size) for size in (LARGEST, OLDER_LARGEST))
    _kept = bool(libc.mallopt(TRIM_THRESHOLD, LARGEST)) and kept


def freed_memory() -> str:
    """What this process does with it, as measurements say it: "kept", "as MALLOC_... says" or "as the system does"."""
    if _kept:
        return "kept"
    return "as MALLOC_... says" if _environment_says() else "as the system does"


def _environment_says() -> bool:
    named = any(name.startswith("MALLOC_") for name in os.environ)
    return named or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
