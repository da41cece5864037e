"""int8 after pruning: what is rounded computes something else by intention, so how much else is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from prune_core.errors import ExportError, VerificationError
from prune_core.exporting.batches import calibration
from prune_core.exporting.formats import Exporter, Runtime
from prune_core.exporting.trace import Batch
from prune_core.verification.verify import without_padding

if TYPE_CHECKING:
    from prune_core.runs.preparation import Job

Int8 = Literal["dynamic", "calibrated"]

_REFUSED = {
    "torch-export": "torch.export has no int8 of its own; a run with a `quantize` section trains for torchao's int8",
    "openvino": "it would need NNCF, which prune does not install; --format onnx has int8",
}


def refuse_int8(name: str, kind: Int8 | None, has_task: bool) -> None:
    """ExportError where a format has no int8, or where the inputs to calibrate it by are missing."""
    if kind is None:
        return
    if name in _REFUSED:
        raise ExportError(f"format {name}: no int8: {_REFUSED[name]}")
    if kind == "calibrated" and not has_task:
        raise ExportError(
            "int8 calibrated: activations are calibrated on real inputs: give --task and its data, or --int8 dynamic"
        )


def round_to_int8(
    target: Exporter, folder: Path, kind: Int8, batches: Sequence[Batch], on: tuple[PreTrainedModel, Job | None]
) -> dict[str, Any]:
    """Round the files in `folder`, in place; what that changed: agreement on `batches`, figures where there is a job.

    `on`: the model that was exported, and the job with the data.
    """
    from prune_core.exporting.onnx_int8 import quantize

    model, job = on
    before, size = target.load(folder), _bytes(folder)
    inputs = calibration(model, job.task) if job is not None and kind == "calibrated" else None
    rounding = quantize(folder, target.file, inputs)
    after = target.load(folder)
    sizes = {"bytes_float32": size, "bytes": _bytes(folder)}
    found = {"kind": kind, **rounding, **sizes, **agreement(before, after, batches)}
    if job is None or model.config.is_encoder_decoder:
        return found
    return {**found, "float32": figures(job, model, before), "int8": figures(job, model, after)}


def _bytes(folder: Path) -> int:
    """Of all files in a folder: the graph, and its weights where they lie beside it."""
    return sum(path.stat().st_size for path in folder.iterdir())


def agreement(one: Runtime, other: Runtime, batches: Sequence[Batch]) -> dict[str, float]:
    """How close two runtimes are on how many inputs: the largest difference of an output, the root mean square of all
    differences relative to that of the outputs, and, for logits, the share of decisions that are the same. What lies at
    padding does not count. VerificationError for nan.
    """
    found = [(batch, one(batch), other(batch)) for batch in batches]
    pairs = [
        (without_padding(value.float(), batch), without_padding(there[name].float(), batch))
        for batch, here, there in found
        for name, value in here.items()
    ]
    squares = sum(float(value.square().sum()) for value, _ in pairs)
    wrong = sum(float((value - there).square().sum()) for value, there in pairs)
    if not wrong < float("inf"):
        raise VerificationError("in int8 the outputs are not finite numbers; nothing was written")
    decided = [
        (_decisions(value, batch) == _decisions(there[name], batch)).flatten()
        for batch, here, there in found
        for name, value in here.items()
        if "logits" in name
    ]
    return {
        "samples": sum(len(next(iter(batch.values()))) for batch in batches),
        "largest_difference": max(float((value - there).abs().max()) for value, there in pairs),
        "relative_difference": (wrong / squares) ** 0.5 if squares else 0.0,
        **({"same_decisions": torch.cat(decided).double().mean().item()} if decided else {}),
    }


def _decisions(logits: Tensor, batch: Batch) -> Tensor:
    """The largest of each row of logits, rows at padding left out; of rows over tokens (spans) none that is padding."""
    mask = batch.get("attention_mask")
    if mask is not None and logits.shape == mask.shape:
        return logits.masked_fill(~mask.bool(), -torch.inf).argmax(-1)
    return without_padding(logits, batch).argmax(-1)


def figures(job: Job, model: PreTrainedModel, runtime: Runtime) -> dict[str, float]:
    """The task's figures on its validation data, computed by `runtime` in the place of `model`."""
    from prune_core.runs.run import evaluate_model

    with running(model, runtime):
        return evaluate_model(job, model)


@contextmanager
def running(model: PreTrainedModel, runtime: Runtime) -> Iterator[None]:
    """In the meantime a call of `model` is one of `runtime`, with outputs by the same names."""

    @functools.wraps(model.forward)
    def forward(**inputs: Tensor) -> ModelOutput:
        return ModelOutput(runtime(inputs))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward
