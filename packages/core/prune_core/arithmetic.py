"""Whether torch multiplies matrices of float32 in TF32, which is faster and exact to ten bits only.

torch has two ways to say it, the older (`set_float32_matmul_precision`, `cudnn.allow_tf32`) and `fp32_precision` of
each backend, and refuses to read the older one where the newer has said something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prune_core.recipe import DType

_ALL: Any = torch.backends
_CUDNN: Any = torch.backends.cudnn
_MKLDNN: Any = torch.backends.mkldnn
_BACKENDS: tuple[Any, ...] = (
    _ALL,
    torch.backends.cuda.matmul,
    _CUDNN,
    _CUDNN.conv,
    _CUDNN.rnn,
    _MKLDNN.matmul,
)


def computed_in(dtype: DType) -> torch.dtype:
    """What tensors are of for this arithmetic."""
    found: torch.dtype = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    return found


@contextmanager
def arithmetic(dtype: DType) -> Iterator[None]:
    """Products of float32 in TF32 for tf32, and in float32, not in less, for everything else."""
    with as_before():
        _ALL.fp32_precision = _CUDNN.fp32_precision = "none"  # which the older way does not overrule
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        yield


@contextmanager
def as_before() -> Iterator[None]:
    """What is said of TF32 in here holds no longer than that: transformers and accelerate turn it on for all."""
    older = _older()
    before = [(backend, backend.fp32_precision) for backend in _BACKENDS]
    try:
        yield
    finally:
        if _older() != older:
            products, convolutions = older or ("highest", True)  # the defaults, of what could not be read
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
        for backend, precision in before:
            for wanted in ("none", precision):  # none: what is said for all of them, where that is the same
                if backend.fp32_precision != precision:
                    backend.fp32_precision = wanted


def _older() -> tuple[str, bool] | None:
    """What the older way says of products and of convolutions; None where the newer one has said otherwise."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None
