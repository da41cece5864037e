"""Freed memory is kept where a process asks for it, by the page faults that it is spared."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from prune_core.training.memory import keep_freed_memory
kept = {asked} and keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE, BLOCKS = 16 << 20, 8
for step in range(11):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(SIZE) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks:
        libc.free(block)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, faults * resource.getpagesize() / (SIZE * BLOCKS))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")


def taken_anew(*, asked: bool = True, **environment: str) -> tuple[bool, float]:
    """Whether memory is kept, and how often ten steps of one size had to take it from the system."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", SCRIPT.format(asked=asked)]
    done = subprocess.run(command, env=mine | environment, capture_output=True, text=True, check=True)
    kept, times = done.stdout.split()
    return kept == "True", float(times)


@glibc
def test_what_a_step_frees_is_there_for_the_next():
    kept, times = taken_anew()
    assert kept
    assert times < 1
    assert taken_anew(asked=False)[1] > 5, "else this shows nothing"


@glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")],
)
def test_what_the_environment_says_of_memory_stays(name: str, value: str):
    kept, times = taken_anew(**{name: value})
    assert not kept
    assert times > 5
