"""Where a training went astray."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def first_not_finite(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """The layer whose output is the first, in the order of one more `forward`, to hold nan or infinity."""
    found: list[str] = []

    def watch(name: str, module: nn.Module, given: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else output if isinstance(output, tuple) else []
        if any(isinstance(tensor, Tensor) and not torch.isfinite(tensor).all() for tensor in tensors):
            found.append(name)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(watch, name)))
        forward()
    return found[0] if found else None
