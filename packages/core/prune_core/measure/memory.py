"""Bytes: of weights in memory and on disk, and of activations."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from prune_core.files import weight_files


def folder_size(path: Path) -> int:
    """Bytes of the weight files of a model folder; ModelError when there are none."""
    return sum(file.stat().st_size for file in weight_files(path))


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of parameters and buffers in memory."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activation_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `run` has allocated at one time on top of what was there before, as torch's allocator has it
    on CUDA, and its profiler on the CPU.
    """
    if device.type != "cuda":
        return _peak_on_the_cpu(run)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_the_cpu(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.experimental_event_tree()
    now = peak = 0
    for _, size in sorted(_allocations(events)):
        now += size
        peak = max(peak, now)
    return peak


def _allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """When, and how many bytes: negative ones where they are given back."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            yield event.start_time_ns, event.typed[1].alloc_size
