"""NoNorm (MobileBERT, arXiv:2004.02984): an affine layer in the place of a LayerNorm, with nothing to compute over."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prune_core.structure import Attention, ModelStructure


class NoNorm(nn.Module):
    """weight * x + bias, both [1, features].

    A LayerNorm's are [features]: so a folder that is loaded without prune_core fails, where the shapes of a LayerNorm
    would have been taken and computed something else.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().reshape(1, -1))
        self.bias = nn.Parameter(bias.detach().reshape(1, -1))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight + self.bias


def layer_norms(model: nn.Module, structure: ModelStructure) -> Iterator[tuple[str, nn.LayerNorm]]:
    """Name and module of every LayerNorm inside the layers that hold a structure's units."""
    firsts = {unit.core if isinstance(unit, Attention) else unit.up for unit in structure.units}
    layers = {match[0] for first in firsts if (match := re.match(r".*?\.\d+\.", first))}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine and name.startswith(tuple(layers)):
            yield name, module


def without_norms(model: nn.Module, structure: ModelStructure) -> None:
    """Replace every LayerNorm of the layers; the weights are to come from a folder."""
    for name, norm in list(layer_norms(model, structure)):
        bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        model.set_submodule(name, NoNorm(norm.weight, bias))
