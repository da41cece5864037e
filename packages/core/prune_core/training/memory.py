"""Memory that a step frees on a CPU, kept for the next one."""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the numbers of mallopt(3)
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system, of the whole process and for good: a step
    asks for as much again, and the system would clear each page anew. The most that a process holds stays the same.

    Returns whether it did: False without glibc, or where MALLOC_... in the environment says already what shall be kept.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all(libc.mallopt(setting, LARGEST) for setting in (MMAP_THRESHOLD, TRIM_THRESHOLD))
