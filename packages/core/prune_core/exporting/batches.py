"""Inputs to trace a model by, and others, of other sizes, to prove the export on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.errors import ExportError
from prune_core.measure import dummy_inputs, fitted
from prune_core.task import Task

SIZES = ((3, 12), (1, 7), (5, 24))
"""Examples and tokens of the batches that are made up; the first one is traced."""
ROWS = (3, 1, 12)
"""Examples of the batches of real inputs; the first one is traced."""
CALIBRATION = 128
"""Examples whose inputs say how large activations are."""


def made_up(model: PreTrainedModel, names: Sequence[str] = ()) -> list[dict[str, Tensor]]:
    """Random batches of several sizes, padded where the model takes masks. `names`: what its tokenizer makes."""
    return [_padded(dummy(model, rows, fitted(model, length), names)) for rows, length in SIZES]


def dummy(model: PreTrainedModel, rows: int, length: int, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """A random batch that is not padded; `token_type_ids`, all of them 0, where they are among `names`."""
    batch = dummy_inputs(model, rows, length)
    if "token_type_ids" in names and _takes(model, "token_type_ids"):
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    return batch


def real(model: PreTrainedModel, task: Task) -> list[dict[str, Tensor]]:
    """The first of a task's validation inputs, in batches of several sizes; ExportError where there are too few."""
    features = task.validation()
    if len(features) < sum(ROWS):
        raise ExportError(
            f"{len(features)} validation examples are too few to prove an export on: {sum(ROWS)} are needed"
        )
    ends = [sum(ROWS[: index + 1]) for index in range(len(ROWS))]
    spans = zip((0, *ends), ends, strict=False)
    return [_whole(model, task, [features[index] for index in range(start, end)]) for start, end in spans]


def calibration(model: PreTrainedModel, task: Task) -> Iterator[dict[str, Tensor]]:
    """Inputs of training examples, one by one, of validation examples where the task has no others."""
    has_training = task.section.train_file is not None or task.section.dataset is not None
    features = task.train() if has_training else task.validation()
    for index in range(min(CALIBRATION, len(features))):
        yield _whole(model, task, [features[index]])


def _whole(model: PreTrainedModel, task: Task, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a model computes from; a decoder beside an encoder is given the encoder's tokens where the task has none."""
    batch: dict[str, Tensor] = task.model_inputs(task.collate(rows))
    if _takes(model, "decoder_input_ids") and "decoder_input_ids" not in batch:
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


def _padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same where the second half of the last of several examples is padding."""
    if "attention_mask" in batch and len(batch["attention_mask"]) > 1:
        mask = batch["attention_mask"].clone()
        mask[-1, ..., mask.shape[-1] // 2 :] = 0
        batch["attention_mask"] = mask
    return batch


def _takes(model: PreTrainedModel, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters
