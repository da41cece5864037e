"""Rows and columns of a linear, cut out in place; on the meta device too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prune_core.granularity import Axis


def lines_of(width: int, kept: Sequence[int]) -> Tensor:
    """The lines that belong to these heads (or neurons) of `width` lines each."""
    index = torch.tensor(kept, dtype=torch.long)[:, None] * width + torch.arange(width)
    return index.flatten()


def narrow(layer: nn.Linear, index: Tensor, axis: Axis) -> None:
    """Keep only these rows, with their biases, or columns of a linear."""
    layer.weight = select(layer.weight, index, 0 if axis == "rows" else 1)
    if axis == "rows":
        layer.out_features = len(index)
        if layer.bias is not None:
            layer.bias = select(layer.bias, index, 0)
    else:
        layer.in_features = len(index)


def select(parameter: Tensor, index: Tensor, axis: int) -> nn.Parameter:
    """A parameter with these entries of an axis only, trained if that was."""
    chosen = parameter.detach().index_select(axis, index.to(parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)
