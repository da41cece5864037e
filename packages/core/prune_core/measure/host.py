"""The machine that is measured on, and the choice of a device."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from prune_core.errors import RecipeError


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    device: str
    cpu: str
    cores: int
    threads: int
    torch: str
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
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
