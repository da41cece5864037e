"""Linears that multiply their weight by a group's mask.

The class of the layer is changed rather than the layer wrapped or parametrized: names of parameters stay, so every
checkpoint of a model in training still loads as the plain model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from prune_core.errors import StructureError
from prune_core.granularity import Granularity
from prune_core.kit.scores import ScoreGroup, Target
from prune_core.linears import Linear, linear, output_axis


class MaskedLinear(nn.Linear):
    """y = x (W * M)^T + b * m, where m is 0 for the outputs of which M leaves nothing. Made by `attach`."""

    _group: ScoreGroup
    _target: Target
    _mask_bias: bool

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, *_masked(self))


class MaskedConv1D(Conv1D):
    """The same for weights [in, out]."""

    _group: ScoreGroup
    _target: Target
    _mask_bias: bool

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _masked(self)
        return F.linear(x, weight.T, bias)


_MASKED: dict[type, type] = {nn.Linear: MaskedLinear, Conv1D: MaskedConv1D}


def _masked(layer: MaskedLinear | MaskedConv1D) -> tuple[Tensor, Tensor | None]:
    """Weight and bias under the mask."""
    granularity, shape = layer._target.granularity, tuple(layer.weight.shape)
    mask = layer._target.orient(layer._group.current()).to(layer.weight.dtype)
    bias: Tensor | None = layer.bias
    if bias is not None and layer._mask_bias:
        lines = granularity.rows if output_axis(layer) == "rows" else granularity.columns
        bias = bias * (lines(mask.detach(), shape) > 0)
    return granularity.apply(layer.weight, mask, _product), bias


class _Product(torch.autograd.Function):
    """Weights times a mask that is broadcast.

    Nothing but the layer's matrix product reads it, so its gradient is nobody else's: it becomes that of the weights in
    place, and a step writes one matrix less.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, mask = ctx.saved_tensors
        moved = (gradients[0] * weight).sum_to_size(mask.shape) if ctx.needs_input_grad[1] else None
        return gradients[0].mul_(mask), moved


def _product(weight: Tensor, mask: Tensor) -> Tensor:
    return _Product.apply(weight, mask)  # type: ignore[no-any-return, no-untyped-call]


def plain_linear(model: nn.Module, module: str) -> Linear:
    """The linear of this name; StructureError where it is already masked, or another kind of layer."""
    layer = linear(model, module)
    if type(layer) not in _MASKED:
        raise StructureError(f"{module} is a {type(layer).__name__}, only a plain Linear can be masked")
    return layer


def attach(model: nn.Module, group: ScoreGroup, target: Target, *, mask_bias: bool) -> None:
    """Make the target's linear masked by `group`. The model owns the group once, elsewhere."""
    layer: Any = plain_linear(model, target.module)
    object.__setattr__(layer, "_mask_bias", mask_bias and empties_outputs(target.granularity, layer))
    object.__setattr__(layer, "_group", group)
    object.__setattr__(layer, "_target", target)
    layer.__class__ = _MASKED[type(layer)]


def detach(model: nn.Module, module: str) -> None:
    """Make a masked linear plain again; its weight is left as it is."""
    layer: Any = model.get_submodule(module)
    for plain, masked in _MASKED.items():
        if type(layer) is masked:
            for name in ("_group", "_target", "_mask_bias"):
                object.__delattr__(layer, name)
            layer.__class__ = plain


def empties_outputs(granularity: Granularity, layer: Linear) -> bool:
    """Whether it can empty one output by itself; one of whole inputs empties all outputs at once."""
    return getattr(granularity, "axis", output_axis(layer)) == output_axis(layer)
