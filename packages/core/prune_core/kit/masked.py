"""Linears that multiply their weight by a group's mask.

The class of the layer is changed rather than the layer wrapped or parametrized: names of parameters stay, so every
checkpoint of a model in training still loads as the plain model.

Of a feed-forward unit under masks of whole neurons closed ones are not computed at all where that needs no waiting: a
step costs what is open. They have no part in outputs and gradients either way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from prune_core.errors import StructureError
from prune_core.granularity import Granularity
from prune_core.kit.scores import GroupPlan, ScoreGroup, Target
from prune_core.linears import Linear, inside, linear, output_axis

WORTH = 0.9
"""Share of open neurons up to which to gather them costs less than it saves, at some hundreds of tokens a step."""


@dataclass(frozen=True)
class Masking:
    """How a group's mask lies on a linear.

    `bias`: a bias entry goes with all weights of its output. `scales`: the weight is multiplied by the mask; else what
    reads the outputs is, and they may be left out here. `narrows`: they are handed on as whole neurons, or read so.
    """

    group: ScoreGroup
    target: Target
    bias: bool = True
    scales: bool = True
    narrows: bool = False


class MaskedLinear(nn.Linear):
    """y = x (W * M)^T + b * m, where m is 0 for the outputs of which M leaves nothing. Made by `attach`."""

    _masking: Masking

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, *_masked(self))


class MaskedConv1D(Conv1D):
    """The same for weights [in, out]."""

    _masking: Masking

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _masked(self)
        return F.linear(x, weight.T, bias)


_MASKED: dict[type, type] = {nn.Linear: MaskedLinear, Conv1D: MaskedConv1D}


def _masked(layer: MaskedLinear | MaskedConv1D) -> tuple[Tensor, Tensor | None]:
    """Weight and bias under the mask."""
    masking = layer._masking
    bias: Tensor | None = layer.bias
    granularity, shape = masking.target.granularity, tuple(layer.weight.shape)
    counts = masking.narrows and counts_at_once(layer.weight)
    if not (counts or masking.scales):
        return layer.weight, bias
    current = masking.group.current()
    if counts:
        lines = granularity.spread(current)  # type: ignore[attr-defined]  # of neurons
        left = lines.detach().nonzero().flatten()
        if len(left) <= WORTH * len(lines):
            return _narrowed(layer, lines, left)
        if not masking.scales:
            return layer.weight, bias
    mask = masking.target.orient(current).to(layer.weight.dtype)
    if bias is not None and masking.bias and empties_outputs(granularity, layer):
        outputs = granularity.rows if output_axis(layer) == "rows" else granularity.columns
        bias = bias * (outputs(mask.detach(), shape) > 0)
    return _Product.apply(layer.weight, mask, granularity), bias  # type: ignore[no-untyped-call]


def _narrowed(layer: MaskedLinear | MaskedConv1D, lines: Tensor, left: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the neurons that are `left` open, under the mask of its `lines`."""
    masking = layer._masking
    bias: Tensor | None = layer.bias
    neurons: Any = masking.target.granularity
    if bias is not None and empties_outputs(neurons, layer):
        bias = bias.index_select(0, left)
    factors = lines.to(layer.weight.dtype) if masking.scales else None
    axis = 0 if neurons.axis == "rows" else 1
    return _Open.apply(layer.weight, factors, left, axis), bias  # type: ignore[no-untyped-call]


def counts_at_once(weight: Tensor) -> bool:
    """Whether it can be told how many neurons are open without waiting: a GPU would be waited for, a compiled graph has
    fixed sizes.
    """
    return weight.device.type == "cpu" and not torch.compiler.is_compiling()


class _Product(torch.autograd.Function):
    """Weights times a mask of a granularity: one step of the graph, however it is broadcast.

    Nothing but the layer's matrix product reads it, so its gradient is nobody else's: it becomes that of the weights in
    place, and a step writes one matrix less.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, granularity: Granularity) -> Tensor:
        ctx.granularity = granularity
        ctx.save_for_backward(weight, mask)
        return granularity.apply(weight, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        weight, mask = ctx.saved_tensors
        gradient, granularity = gradients[0].contiguous(), ctx.granularity
        moved = granularity.collect(gradient * weight, mask) if ctx.needs_input_grad[1] else None
        return granularity.apply(gradient, mask, Tensor.mul_), moved, None


class _Open(torch.autograd.Function):
    """`_Product` of a mask of rows (axis 0) or columns (1) without the lines where it is 0; None multiplies by 1."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor | None, left: Tensor, axis: int) -> Tensor:
        lines = weight.index_select(axis, left)
        factors = None if mask is None else mask.index_select(0, left).unsqueeze(1 - axis)
        if factors is not None and bool((factors == 1).all()):
            factors = None  # binary masks, where it would be one more pass over the weights
        ctx.axis, ctx.shape = axis, weight.shape
        ctx.save_for_backward(left, lines if ctx.needs_input_grad[1] else None, factors)
        return lines if factors is None else lines * factors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        gradient, (left, lines, factors), axis = gradients[0], ctx.saved_tensors, ctx.axis
        moved = None
        if lines is not None:
            moved = gradient.new_zeros(ctx.shape[axis]).index_copy_(0, left, (gradient * lines).sum(1 - axis))
        if factors is not None:
            gradient = gradient.mul_(factors)
        return gradient.new_zeros(ctx.shape).index_copy_(axis, left, gradient), moved, None, None


def plain_linear(model: nn.Module, module: str) -> Linear:
    """The linear of this name; StructureError where it is already masked, or another kind of layer."""
    layer = linear(model, module)
    if type(layer) not in _MASKED:
        raise StructureError(f"{module} is a {type(layer).__name__}, only a plain Linear can be masked")
    return layer


def check_own(model: nn.Module, plans: Iterable[GroupPlan]) -> None:
    """StructureError where another module holds a parameter of a target too: a mask goes by one name."""
    targets = {target.module for plan in plans for target in plan.targets}
    holders: dict[Tensor, str] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            first = holders.setdefault(parameter, name)
            if first != name and not targets.isdisjoint((first, name)):
                raise StructureError(
                    f"{first} and {name} hold the same parameter: a mask of one would change the other; give each its "
                    "own, or exclude both"
                )


def attach(model: nn.Module, masking: Masking) -> None:
    """Mask the linear that is its target. The model owns the group once, elsewhere."""
    layer: Any = plain_linear(model, masking.target.module)
    object.__setattr__(layer, "_masking", masking)
    layer.__class__ = _MASKED[type(layer)]


def detach(model: nn.Module, module: str) -> None:
    """Make a masked linear plain again; its weight is left as it is."""
    layer: Any = inside(model, module)
    for plain, masked in _MASKED.items():
        if type(layer) is masked:
            object.__delattr__(layer, "_masking")
            layer.__class__ = plain


def empties_outputs(granularity: Granularity, layer: Linear) -> bool:
    """Whether it can empty one output by itself; one of whole inputs empties all outputs at once."""
    return getattr(granularity, "axis", output_axis(layer)) == output_axis(layer)
