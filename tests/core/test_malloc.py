"""Freed memory is kept where a process asks for it, by the page faults that it is spared."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from prune_core.malloc import freed_memory, keep_freed_memory
if {asked}:
    keep_freed_memory()
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
print(freed_memory())
print(faults * resource.getpagesize() / (SIZE * BLOCKS))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")


def taken_anew(*, asked: bool = True, **environment: str) -> tuple[str, float]:
    """What is said of freed memory, and how often ten steps of one size had to take it from the system."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", SCRIPT.format(asked=asked)]
    done = subprocess.run(command, env=mine | environment, capture_output=True, text=True, check=True)
    said, times = done.stdout.splitlines()
    return said, float(times)


@glibc
def test_what_a_step_frees_is_there_for_the_next():
    said, times = taken_anew()
    assert said == "kept"
    assert times < 1
    said, times = taken_anew(asked=False)
    assert said == "as the system does"
    assert times > 5, "else this shows nothing"


@glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")],
)
def test_what_the_environment_says_of_memory_stays(name: str, value: str):
    said, times = taken_anew(**{name: value})
    assert said == "as MALLOC_... says"
    assert times > 5
