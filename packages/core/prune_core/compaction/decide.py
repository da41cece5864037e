"""Which heads and neurons may go: only those whose removal changes nothing, by their masks, never by guessed zeros."""

from functools import reduce

import torch
from torch import Tensor, nn

from prune_core.masks import MaskSet
from prune_core.structure import Attention, FeedForward, Unit, linear


def kept_indices(model: nn.Module, unit: Unit, masks: MaskSet) -> list[int]:
    """Heads (or neurons) of `unit` that stay; constants that the others leave are folded into the output bias.

    `model` has the masks of its biases baked in. A head goes when the mask empties all its output columns, or all its
    value rows: then it adds a constant, its value bias through the output (attention weights sum to 1). A head with
    empty query or key rows averages its values and stays. A neuron goes when its down column is empty, or its up row:
    then it adds act(bias) times its down column.
    """
    silent, constant, values = (
        _attention(model, unit, masks) if isinstance(unit, Attention) else _ffn(model, unit, masks)
    )
    output = linear(model, unit.output if isinstance(unit, Attention) else unit.down)
    folded = constant & ~silent & (values != 0).any(dim=1)
    if output.bias is None:
        constant = constant & ~folded
    elif folded.any():
        width = values.shape[1]
        columns = _masked(model, unit.output if isinstance(unit, Attention) else unit.down, masks)
        columns = columns.view(len(columns), -1, width)[:, folded]
        with torch.no_grad():
            added = torch.einsum("onw,nw->o", columns.double(), values[folded].to(columns.device).double())
            output.bias.add_(added.to(output.bias))
    return (~(silent | constant)).nonzero().flatten().tolist()


def _attention(model: nn.Module, unit: Attention, masks: MaskSet) -> tuple[Tensor, Tensor, Tensor]:
    """Per key/value head: no output column left; no value row left; what its columns then read, [heads, width]."""
    group = unit.queries_per_key
    silent = ~_alive_columns(model, unit.output, masks).view(-1, unit.head_size * group).any(dim=1)
    constant = ~_alive_rows(model, unit.value, masks).view(-1, unit.head_size).any(dim=1)
    bias = _bias(model, unit.value).view(-1, unit.head_size)
    return silent, constant, bias.repeat(1, group)


def _ffn(model: nn.Module, unit: FeedForward, masks: MaskSet) -> tuple[Tensor, Tensor, Tensor]:
    """Per neuron: no down column left; constant whatever comes in; that constant, [neurons, 1]."""
    silent = ~_alive_columns(model, unit.down, masks)
    activation = reduce(getattr, unit.activation.split("."), model)
    up, up_bias = _alive_rows(model, unit.up, masks), _bias(model, unit.up)
    if unit.gate is None:
        return silent, ~up, activation(up_bias)[:, None]
    gate, gate_value = _alive_rows(model, unit.gate, masks), activation(_bias(model, unit.gate))
    constant = (~gate & ~up) | (~gate & (gate_value == 0)) | (~up & (up_bias == 0))
    return silent, constant, (gate_value * up_bias)[:, None]


def _masked(model: nn.Module, name: str, masks: MaskSet) -> Tensor:
    weight, mask = linear(model, name).weight.detach(), masks.get(f"{name}.weight")
    return weight if mask is None else weight * mask.expand().to(weight)


def _alive_rows(model: nn.Module, name: str, masks: MaskSet) -> Tensor:
    weight = linear(model, name).weight
    mask = masks.get(f"{name}.weight")
    if mask is None:
        return torch.ones(weight.shape[0], dtype=torch.bool)
    return mask.granularity.rows(mask.values.to(torch.uint8), mask.shape).bool()


def _alive_columns(model: nn.Module, name: str, masks: MaskSet) -> Tensor:
    weight = linear(model, name).weight
    mask = masks.get(f"{name}.weight")
    if mask is None:
        return torch.ones(weight.shape[1], dtype=torch.bool)
    return mask.granularity.columns(mask.values.to(torch.uint8), mask.shape).bool()


def _bias(model: nn.Module, name: str) -> Tensor:
    layer = linear(model, name)
    return torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().cpu()
