"""What a step would wait for on a GPU, seen without one.

The meta device stands for it: its tensors have no values, so an operation whose result the CPU must know (a number, a
count, the shape of a selection) cannot run, and what comes from the main memory is seen to come. Not seen are: whether
memory that is sent is pinned, what a kernel of CUDA alone waits for, and what is not run here (the optimizer, the
Trainer, NCCL). Tests marked gpu see all of that but NCCL.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

AWAY = torch.device("meta")
"""The device that must not be waited for."""

READING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount", "histc"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
}
SELECTING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Those wait where they select by a mask, whose ones must be counted, or by places in the main memory."""
MAKING = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""Of Python's numbers: copied to the device, blocking."""

HANDING = {Tensor.tolist, Tensor.numpy}
"""To Python, without an operation on the CPU."""


class Waits(TorchDispatchMode):
    """Names of operations that wait for `device`, of those that run in it, the backward pass included.

    The CPU as a device shows what reads or selects, where a whole run is watched; no copies: it sends itself none.
    What a model of transformers does by itself is left out: it does so for the dense model too.
    """

    def __init__(self, device: torch.device = AWAY) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []
        self._calls = _Calls(self)

    def __enter__(self) -> Waits:
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.partition("::")[2], kwargs or {}
        there = any(isinstance(one, Tensor) and one.device == self.device for one in args)
        reads = name in READING or (name in SELECTING and any(_waits(index, args[0]) for index in args[1]))
        copies = name in ("_to_copy", "copy_") and _blocks(*_copy(args, kwargs))
        if (copies or (there and reads)) and not _in_transformers():
            self.found.append(name)
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Functions that wait without an operation that would show it."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        hands = func in HANDING or (func is Tensor.__getitem__ and _by_list(args[1]))
        if hands and args[0].device == self.waits.device and not _in_transformers():
            self.waits.found.append(func.__name__)
        made = func(*args, **(kwargs or {}))
        if func in MAKING and made.device == AWAY and made is not args[0] and not _in_transformers():
            self.waits.found.append(func.__name__)
        return made


def _in_transformers() -> bool:
    """Whether the operation that runs now was called by a model of transformers, or by what that calls of torch."""
    frame: Any = sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith(("torch.", __name__)):
        frame = frame.f_back
    caller = frame.f_globals["__name__"]
    return caller.startswith("transformers.") and not caller.startswith("transformers.trainer")


def _by_list(index: Any) -> bool:
    """Whether it selects by a list of numbers, which goes to the device first."""
    return any(isinstance(one, list) for one in (index if isinstance(index, tuple) else (index,)))


def _waits(index: Tensor | None, selected: Tensor) -> bool:
    if index is None:
        return False
    return index.dtype in (torch.bool, torch.uint8) or (index.device != selected.device and index.ndim > 0)


def _copy(args: Any, kwargs: Any) -> tuple[torch.device, torch.device, bool]:
    """From where, to where, and whether it goes on meanwhile."""
    if isinstance(args[1] if len(args) > 1 else None, Tensor):  # copy_(self, src, non_blocking)
        return args[1].device, args[0].device, bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    return args[0].device, torch.device(kwargs.get("device") or args[0].device), bool(kwargs.get("non_blocking"))


def _blocks(source: torch.device, target: torch.device, goes_on: bool) -> bool:
    """To the main memory every copy is waited for, for what was copied is read there."""
    return source != target and (AWAY in (source, target)) and not (goes_on and target == AWAY)


def without_those_of_transformers(patch: pytest.MonkeyPatch) -> None:
    """transformers itself waits once a forward, of the dense model too: to see whether a mask hides anything."""
    for kind in ("bidirectional", "causal"):
        patch.setattr(f"transformers.masking_utils._ignore_{kind}_mask_sdpa", lambda *_, **__: False)
