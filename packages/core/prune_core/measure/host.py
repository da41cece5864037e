"""The machine that is measured on, its threads, and the choice of a device."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from prune_core.errors import RecipeError


@dataclass(frozen=True)
class Machine:
    """Where it was measured. `cores`: of the machine; `usable_cores`: that this process may run on (taskset, cgroups'
    cpusets); `threads`: that torch computes with; `memory_bytes`: of the machine, and `device_bytes` of the GPU.
    """

    device: str
    cpu: str
    cores: int
    usable_cores: int
    threads: int
    memory_bytes: int | None
    device_bytes: int | None
    system: str
    torch: str
    cuda: str | None
    transformers: str
    python: str


def pick_device(device: str) -> torch.device:
    """The device that auto, cpu or cuda stands for; RecipeError for cuda where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("device: cuda was asked for, and torch finds no CUDA device; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def machine(device: torch.device) -> Machine:
    """This machine and the settings that timings depend on."""
    on_cuda, cores = device.type == "cuda", os.cpu_count() or 1
    return Machine(
        device=torch.cuda.get_device_name(device) if on_cuda else "cpu",
        cpu=_cpu_name(),
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        threads=torch.get_num_threads(),
        memory_bytes=_memory(),
        device_bytes=torch.cuda.get_device_properties(device).total_memory if on_cuda else None,
        system=platform.platform(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_cuda else None,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """As many threads of the CPU for torch, for a while; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says it
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
