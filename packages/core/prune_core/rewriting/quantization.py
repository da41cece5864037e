"""Fine-tuning for int8: linears compute as torchao's int8 dynamic quantization will, while their weights stay floats.

torchao 0.18's own quantization-aware training knows no such scheme (symmetric rounding of every token of an input), so
that its tensors do the rounding here: what is trained is what is computed later, but for the order of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.errors import RecipeError
from prune_core.folders.loading import structure_of
from prune_core.linears import linear
from prune_core.structure import ModelStructure


class RoundedLinear(nn.Linear):
    """y = r(x) r(W)^T + b, where r rounds to int8 and back: x token by token, W row by row."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(rounded(input), rounded(self.weight), self.bias)


def rounded(values: Tensor) -> Tensor:
    """`values` as int8 holds them, scaled by the largest along the last axis; the gradient passes straight through."""
    from torchao.quantization import Int8Tensor, PerRow

    with torch.no_grad():
        kept = Int8Tensor.from_hp(values, granularity=PerRow()).dequantize()
    rounding: Tensor = kept - values.detach()
    return values + rounding


@contextmanager
def rounding(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """In the meantime these linears compute with rounded inputs and weights; names and parameters stay."""
    chosen = [linear(model, name) for name in layers]
    for layer in chosen:
        layer.__class__ = RoundedLinear
    try:
        yield
    finally:
        for layer in chosen:
            layer.__class__ = nn.Linear


def int8(model: PreTrainedModel, layers: Sequence[str] | None = None) -> PreTrainedModel:
    """A copy of `model` with these linears in int8, by default those that `quantize` trains for it, the prunable ones;
    their inputs are rounded as they come. For inference alone.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    if layers is None:
        layers = structure_of(model).left_in(model)
    smaller: PreTrainedModel = copy.deepcopy(model).eval()
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantize_(smaller, config, filter_fn=lambda module, name: name in layers)
    return smaller


def need_linears(structure: ModelStructure) -> None:
    """RecipeError where the weights are in other layers: torchao has int8 for none but linears."""
    for unit in structure.units:
        if unit.turned:
            raise RecipeError(
                f"quantize: {unit.key} of this {structure.architecture} is made of Conv1Ds, and torchao rounds Linears "
                "alone: leave quantize out"
            )


def need_torchao() -> None:
    """RecipeError where torchao is not installed."""
    if find_spec("torchao") is None:
        raise RecipeError("quantize: torchao is not installed: pip install prune-core[quantization]")
