"""The machine that is measured on, its threads, and the choice of a device."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers

from prune_core.errors import RecipeError
from prune_core.malloc import freed_memory


@dataclass(frozen=True)
class Machine:
    """Where it was measured. `cores`: of the machine; `usable_cores`: that this process may run on (taskset, cgroups'
    cpusets); `threads`: that torch computes with; `memory_bytes`: of the machine, and `device_bytes` of the GPU;
    `capability`: what the GPU's cores can do, such as 9.0; `blas`: the library of torch's products on the CPU;
    `freed_memory`: whether the process keeps what it frees; `wait_policy`: what threads without work do, by
    OMP_WAIT_POLICY, None where OpenMP decides.
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
    blas: str | None
    freed_memory: str
    wait_policy: str | None
    cuda: str | None
    driver: str | None
    capability: str | None
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
        blas=_blas(),
        freed_memory=freed_memory(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY"),
        cuda=torch.version.cuda if on_cuda else None,
        driver=_driver() if on_cuda else None,
        capability="{}.{}".format(*torch.cuda.get_device_capability(device)) if on_cuda else None,
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


def _blas() -> str | None:
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found and found[1]


@cache
def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # some containers lack the program
        return None
    return found.stdout.split("\n", 1)[0].strip() or None


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """What the processor says that it can do; nothing where the system does not tell (any but Linux)."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(field: str) -> str:
    """What Linux says of the first processor; an empty string elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
