"""int8 for ONNX Runtime on the CPU: weights of linears, and their inputs, by ranges that are seen or calibrated."""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from prune_core.exporting.trace import Batch
from prune_core.logs import at_level
from prune_core.measure.host import cpu_flags

_X86 = ("x86_64", "amd64")
_LINEARS = ["MatMul", "Gemm"]
_OPTIONS = {"MatMulConstBOnly": True}
"""Products of two activations, those within attention, stay in float32: int8 costs them more than it gains."""


def quantize(folder: Path, name: str, inputs: Iterator[Batch] | None) -> dict[str, Any]:
    """Round the linears of the model `name` in a folder to int8, in place, each row of a weight by a scale of its own.

    Without `inputs` the ranges of activations are found at each run; with them (calibrated) they are those of these
    inputs, once and for all. Weights that lie in a file of their own do so afterwards too. Returns how it was rounded.
    """
    aside = folder / f"{name}.data"
    weight_bits = 7 if saturates() else 8
    shared: dict[str, Any] = {
        "op_types_to_quantize": _LINEARS,
        "per_channel": True,
        "reduce_range": weight_bits == 7,
        "use_external_data_format": aside.exists(),
        "extra_options": _OPTIONS,
    }
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:  # whose files name each other as those here do
        _quantize(folder / name, Path(draft) / name, inputs, shared)
        for old in (folder / name, aside):
            old.unlink(missing_ok=True)
        for new in Path(draft).iterdir():
            new.replace(folder / new.name)
    return {"weight_bits": weight_bits}


def saturates() -> bool:
    """Whether this CPU adds two products of int8 and uint8 in 16 bits, which overflow: x86 without VNNI."""
    return platform.machine().lower() in _X86 and not cpu_flags() & {"avx512_vnni", "avx_vnni"}


def _quantize(file: Path, output: Path, inputs: Iterator[Batch] | None, options: dict[str, Any]) -> None:
    with at_level(None, logging.ERROR):  # it warns, through the root logger, of a preprocessing that is done
        if inputs is None:
            quantize_dynamic(file, output, weight_type=QuantType.QInt8, **options)
        else:
            types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            quantize_static(file, output, _Reader(inputs), quant_format=QuantFormat.QDQ, **types, **options)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # theirs is not typed
    """Hands over one batch of inputs after the other."""

    def __init__(self, inputs: Iterator[Batch]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.inputs, None)
        return None if batch is None else {name: value.numpy() for name, value in batch.items()}
