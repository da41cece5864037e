"""Memory that a step frees on a CPU, kept for the next one."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of mallopt(3)
LARGEST = 2**31 - 1
OLDER_LARGEST = 32 << 20
"""The largest block that older versions of glibc can be told to keep."""


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system, of the whole process and for good: a step
    asks for as much again, and the system would clear each page anew.

    Returns whether it did: False without glibc, or where the environment says already what shall be kept (MALLOC_...
    or GLIBC_TUNABLES).
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or told:
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    kept = any(libc.mallopt(MMAP_THRESHOLD, size) for size in (LARGEST, OLDER_LARGEST))
    return bool(libc.mallopt(TRIM_THRESHOLD, LARGEST)) and kept
