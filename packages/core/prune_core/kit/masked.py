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
from prune_core.granularity import Granularity, Neuron
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


@dataclass(frozen=True)
class _Laid:
    """A mask on a linear: as the target reads it, in the dtype of the weight. `outputs`: 1 for those that have a weight
    left, which multiplies the bias; None where no bias is masked.
    """

    target: Target
    mask: Tensor
    outputs: Tensor | None


@dataclass(frozen=True)
class _Left:
    """The neurons that are left open: their places, and what their lines are multiplied by, None where it is 1."""

    neurons: Neuron
    places: Tensor
    factor: Tensor | None


def _masked(layer: MaskedLinear | MaskedConv1D) -> tuple[Tensor, Tensor | None]:
    """Weight and bias under the mask."""
    masking, weight, bias = layer._masking, layer.weight, layer.bias
    counts = masking.narrows and counts_at_once(weight)
    if not (counts or masking.scales):
        return weight, bias
    mask, learner = masking.group.in_force()
    left = _left(masking, mask, weight.dtype) if counts else None
    granularity = masking.target.granularity
    empties = bias is not None and empties_outputs(granularity, layer)
    if left is not None:
        narrow: Tensor = _Open.apply(weight, learner if masking.scales else None, left)  # type: ignore[no-untyped-call]
        return narrow, bias.index_select(0, left.places) if empties else bias
    if not masking.scales:
        return weight, bias
    mask, outputs = masking.target.orient(mask).to(weight.dtype), None
    if empties and masking.bias:
        outputs = granularity.lines(mask, tuple(weight.shape), output_axis(layer)).sign()
    laid = _Laid(masking.target, mask, outputs)
    product, masked_bias = _Product.apply(weight, bias, learner, laid)  # type: ignore[no-untyped-call]
    return product, bias if masked_bias is None else masked_bias


def _left(masking: Masking, mask: Tensor, dtype: torch.dtype) -> _Left | None:
    """The open neurons; None where so many are that to gather them would cost more than it saves."""
    neurons: Any = masking.target.granularity
    lines = neurons.spread(mask)
    places = lines.nonzero().flatten()
    if len(places) > WORTH * len(lines):
        return None
    factor = lines.to(dtype).index_select(0, places) if masking.scales else None
    if factor is not None and bool((factor == 1).all()):
        factor = None  # binary masks, where it would be one more pass over the weights
    return _Left(neurons, places, factor)


def counts_at_once(weight: Tensor) -> bool:
    """Whether it can be told how many neurons are open without waiting: a GPU would be waited for, a compiled graph has
    fixed sizes.
    """
    return weight.device.type == "cpu" and not torch.compiler.is_compiling()


class _Product(torch.autograd.Function):
    """Weights and their bias times a mask: one step of the graph, however it is broadcast. The mask's gradient is the
    `learner`'s; a bias that the mask leaves alone is None.

    Nothing but the layer's matrix product reads the weights, so their gradient is nobody else's: it becomes that of the
    parameter in place, and a step writes one matrix less.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, learner: Tensor | None, laid: _Laid
    ) -> tuple[Tensor, Tensor | None]:
        ctx.target = laid.target
        ctx.save_for_backward(weight, laid.mask, laid.outputs)
        product = laid.target.granularity.apply(weight, laid.mask)
        return product, None if bias is None or laid.outputs is None else bias * laid.outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask, outputs = ctx.saved_tensors
        gradient, granularity, moved = gradients[0].contiguous(), ctx.target.granularity, None
        if ctx.needs_input_grad[2]:
            moved = ctx.target.orient(granularity.collect(gradient * weight, mask))
        for factor in granularity.factors(mask, tuple(weight.shape)):
            granularity.seen(gradient).mul_(factor)
        biased = outputs is not None and ctx.needs_input_grad[1]
        return gradient, gradients[1] * outputs if biased else None, moved, None


class _Open(torch.autograd.Function):
    """`_Product` of a mask of neurons without the lines where it is 0."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, learner: Tensor | None, left: _Left) -> Tensor:
        ctx.axis, ctx.neurons = 0 if left.neurons.axis == "rows" else 1, left.neurons
        ctx.shape, ctx.learned = weight.shape, None if learner is None else learner.dtype
        lines = weight.index_select(ctx.axis, left.places)
        factor = None if left.factor is None else left.factor.unsqueeze(1 - ctx.axis)
        ctx.save_for_backward(left.places, lines if ctx.needs_input_grad[1] else None, factor)
        return lines if factor is None else lines * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gradient, (places, lines, factor), axis = gradients[0], ctx.saved_tensors, ctx.axis
        moved = None
        if lines is not None:
            moved = (gradient * lines).sum(1 - axis).to(ctx.learned)
            moved = ctx.neurons.added(moved.new_zeros(ctx.shape[axis]).index_copy_(0, places, moved))
        if factor is not None:
            gradient = gradient.mul_(factor)
        return gradient.new_zeros(ctx.shape).index_copy_(axis, places, gradient), moved, None


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
