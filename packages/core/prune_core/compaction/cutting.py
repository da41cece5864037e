"""Rows and columns of a linear or Conv1D, cut out in place; on the meta device too."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prune_core.granularity import Axis
from prune_core.linears import Linear, output_axis


def lines_of(width: int, kept: Sequence[int]) -> Tensor:
    """The lines that belong to these heads (or neurons) of `width` lines each."""
    index = torch.tensor(kept, dtype=torch.long)[:, None] * width + torch.arange(width)
    return index.flatten()


def narrow(layer: Linear, index: Tensor | Sequence[int], axis: Axis) -> None:
    """Keep only these rows or columns of a linear, and where those are its outputs of its bias."""
    layer.weight = select(layer.weight, index, 0 if axis == "rows" else 1)
    gives, takes = ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("nf", "nx")
    setattr(layer, gives if axis == output_axis(layer) else takes, len(index))
    if axis == output_axis(layer) and layer.bias is not None:
        layer.bias = select(layer.bias, index, 0)


def select(parameter: Tensor, index: Tensor | Sequence[int], axis: int) -> nn.Parameter:
    """A parameter with these entries of an axis only, trained if that was."""
    if parameter.is_meta:  # it has a shape and nothing else: which entries is of no account
        shape = list(parameter.shape)
        shape[axis] = len(index)
        empty = torch.empty(shape, dtype=parameter.dtype, device="meta")
        return nn.Parameter(empty, requires_grad=parameter.requires_grad)
    chosen = parameter.detach().index_select(axis, torch.as_tensor(index, device=parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)
