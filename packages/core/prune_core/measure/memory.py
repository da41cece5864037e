"""Bytes: of weights in memory and on disk, and of activations."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from prune_core.errors import ModelError

_WEIGHT_FILES = ("*.safetensors", "*.bin")


def folder_size(path: Path) -> int:
    """Bytes of the weight files of a model folder; ModelError when there are none."""
    files = [file for pattern in _WEIGHT_FILES for file in path.glob(pattern)]
    if not files:
        raise ModelError(f"{path} holds no weights: no {' or '.join(_WEIGHT_FILES)} was found")
    return sum(file.stat().st_size for file in files)


def weight_bytes(model: PreTrainedModel) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def activation_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
