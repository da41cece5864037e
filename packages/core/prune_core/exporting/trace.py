"""One graph of a model's forward that takes any batch size and length: every format starts from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel

from prune_core.errors import ExportError, foreign

Batch = Mapping[str, Tensor]

FIXED = frozenset(("pixel_values", "input_features"))
"""Inputs of which only the number of examples may vary: a model takes images and spectra of one size."""


class Forward(nn.Module):
    """A model's forward with named inputs alone, without a cache, whose outputs are a dictionary of tensors."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

        def forward(**inputs: Tensor) -> dict[str, Tensor]:
            return self.outputs(inputs)

        # torch.export names inputs by the signature, and gives a **mapping none
        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        forward.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        self.forward = forward

    def outputs(self, inputs: Batch) -> dict[str, Tensor]:
        """Every tensor that the model puts out, by the model's own names."""
        found = self.model(**inputs, **self.options)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Traced:
    """The graph, an example of its inputs, the names of its outputs, and the names of the axes that may vary."""

    program: ExportedProgram
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]


def trace(model: PreTrainedModel, batch: Batch) -> Traced:
    """The graph of `model`, in evaluation mode on the CPU, for inputs of the names and ranks of `batch`.

    ExportError where it cannot be traced, or only for the sizes of `batch`.
    """
    inputs, axes = dict(batch), axes_of(batch)
    forward = Forward(model, tuple(inputs))
    sizes = {name: dict.fromkeys(found, Dim.AUTO) for name, found in axes.items()}
    blamed = foreign(ExportError, f"{type(model).__name__} cannot be traced")
    with blamed, torch.inference_mode(False), torch.no_grad():
        outputs = tuple(forward(**inputs))
        program = torch.export.export(forward, (), inputs, dynamic_shapes=sizes)
    _refuse_fixed(program, axes, type(model).__name__)
    return Traced(program, inputs, outputs, axes)


def axes_of(batch: Batch) -> dict[str, dict[int, str]]:
    """The axes of each input that may vary, by their names: batch, length, decoder_length, choices."""
    return {name: _axes(name, value) for name, value in batch.items()}


def symbols(program: ExportedProgram) -> dict[str, tuple[Any, ...]]:
    """The sizes of each input in a graph: a number where it is fixed, a symbol where it may vary."""
    names = program.graph_signature.user_inputs
    found = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names}
    return {name: tuple(int(size) if str(size).isdigit() else size for size in sizes) for name, sizes in found.items()}


def _axes(name: str, value: Tensor) -> dict[int, str]:
    length = "decoder_length" if name.startswith("decoder_") else "length"
    if name in FIXED or value.dim() == 1:
        return {0: "batch"}
    return {0: "batch", 1: length} if value.dim() == 2 else {0: "batch", 1: "choices", 2: length}


def _refuse_fixed(program: ExportedProgram, axes: dict[str, dict[int, str]], model: str) -> None:
    """torch.export fixes a size without a word where the model's code needs a number."""
    for name, sizes in symbols(program).items():
        for axis, meaning in axes[name].items():
            if isinstance(sizes[axis], int):
                raise ExportError(
                    f"{model} can be traced for one {meaning} of {name} only, {sizes[axis]}: its code needs the number"
                )
