"""int8 for ONNX Runtime on the CPU: weights of linears, and their inputs, by ranges that are seen or calibrated."""

from __future__ import annotations

import logging
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

_LINEARS = ["MatMul", "Gemm"]
_OPTIONS = {"MatMulConstBOnly": True}
"""Products of two activations, those within attention, stay in float32: int8 costs them more than it gains."""


def quantize(file: Path, inputs: Iterator[Batch] | None) -> None:
    """Round the linears of a model.onnx to int8, in place, each row of a weight by a scale of its own.

    Without `inputs` the ranges of activations are found at each run; with them (calibrated) they are those of these
    inputs, once and for all.
    """
    draft = file.with_suffix(".int8")
    shared: dict[str, Any] = {"op_types_to_quantize": _LINEARS, "per_channel": True, "extra_options": _OPTIONS}
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it warns, through the root logger, of a preprocessing that is done
    try:
        if inputs is None:
            quantize_dynamic(file, draft, weight_type=QuantType.QInt8, **shared)
        else:
            types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            quantize_static(file, draft, _Reader(inputs), quant_format=QuantFormat.QDQ, **types, **shared)
    finally:
        logging.getLogger().setLevel(level)
    draft.replace(file)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # theirs is not typed
    """Hands over one batch of inputs after the other."""

    def __init__(self, inputs: Iterator[Batch]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.inputs, None)
        return None if batch is None else {name: value.numpy() for name, value in batch.items()}
