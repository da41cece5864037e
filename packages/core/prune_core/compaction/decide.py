"""Which heads and neurons may go: only those whose removal changes nothing, by their masks, never by guessed zeros."""

from functools import reduce

import torch
from torch import Tensor, nn

from prune_core.compaction.layers import output_of
from prune_core.linears import linear, outputs
from prune_core.masks import MaskSet
from prune_core.structure import Attention, FeedForward, Role, Unit


def fold_and_keep(model: nn.Module, unit: Unit, masks: MaskSet) -> list[int]:
    """Heads (or neurons) of `unit` that stay; constants that the others leave are added to the output bias, in place.

    To be called once: a second call would add them again. `needed` counts without it.

    A head goes when the mask empties all its output columns, or all its value rows: then it adds a constant, its value
    bias through the output (attention weights sum to 1). A head with empty query or key rows averages its values and
    stays. A neuron goes when its down column is empty, or its up row: then it adds act(bias) times its down column.
    """
    kept, folded, values = _decided(model, unit, masks)
    if folded.any():
        name = output_of(unit)
        columns, bias = _columns(model, unit, name, masks)[folded], linear(model, name).bias
        with torch.no_grad():
            added = torch.einsum("nwo,nw->o", columns.double(), values[folded].to(columns.device).double())
            bias.add_(added.to(bias))
    return kept.nonzero().flatten().tolist()


def needed(model: nn.Module, unit: Unit, masks: MaskSet) -> int:
    """How many heads (or neurons) `fold_and_keep` would keep; the model stays as it is, masks baked in or not."""
    return int(_decided(model, unit, masks)[0].sum())


def _decided(model: nn.Module, unit: Unit, masks: MaskSet) -> tuple[Tensor, Tensor, Tensor]:
    """Per head (or neuron): it stays; it goes, and its constant is folded; what its columns then read of it."""
    silent, constant, values = (
        _attention(model, unit, masks) if isinstance(unit, Attention) else _ffn(model, unit, masks)
    )
    folded = constant & ~silent & (values != 0).any(dim=1)
    if linear(model, output_of(unit)).bias is None:  # nothing takes a constant
        constant, folded = constant & ~folded, torch.zeros_like(folded)
    return ~(silent | constant), folded, values


def _attention(model: nn.Module, unit: Attention, masks: MaskSet) -> tuple[Tensor, Tensor, Tensor]:
    """Per key/value head: no output column left; no value row left; what its columns then read, [heads, width]."""
    silent = ~_alive(unit, Role.ATTENTION_OUTPUT, masks)
    constant = ~_alive(unit, Role.VALUE, masks)
    if unit.value_bias:
        bias = _vector(model, unit.value_bias, masks).view(-1, unit.head_size)
    else:
        bias = _bias(model, unit, Role.VALUE, masks)
    return silent, constant, bias.repeat(1, unit.queries_per_key)


def _ffn(model: nn.Module, unit: FeedForward, masks: MaskSet) -> tuple[Tensor, Tensor, Tensor]:
    """Per neuron: no down column left; constant whatever comes in; that constant, [neurons, 1]."""
    silent = ~_alive(unit, Role.FFN_DOWN, masks)
    activation = reduce(getattr, unit.activation.split("."), model)
    up, up_bias = _alive(unit, Role.FFN_UP, masks), _bias(model, unit, Role.FFN_UP, masks)
    if unit.gate is None:
        return silent, ~up, activation(up_bias)
    gate = _alive(unit, Role.FFN_GATE, masks)
    gate_value = activation(_bias(model, unit, Role.FFN_GATE, masks))
    nothing = (~gate & (gate_value == 0).flatten()) | (~up & (up_bias == 0).flatten())
    return silent, (~gate & ~up) | nothing, gate_value * up_bias


def _alive(unit: Unit, role: Role, masks: MaskSet) -> Tensor:
    """Whether a weight of this role is left of each head or neuron."""
    name, part = unit.place(role)
    mask, whole = masks.get(f"{name}.weight"), unit.slice_of(name)
    if mask is None:
        return torch.ones(unit.count, dtype=torch.bool)
    return whole.gather(mask.alive(whole.axis))[:, part].any(dim=1)


def _columns(model: nn.Module, unit: Unit, name: str, masks: MaskSet) -> Tensor:
    """What the output reads of each head or neuron, [heads, width, out]."""
    weight, mask = linear(model, name).weight.detach(), masks.get(f"{name}.weight")
    weight = weight if mask is None else weight * mask.expand().to(weight)
    whole = unit.slice_of(name)
    return whole.gather(weight if whole.axis == "rows" else weight.T)


def _bias(model: nn.Module, unit: Unit, role: Role, masks: MaskSet) -> Tensor:
    """The bias of each head or neuron, [heads, width]; zeros without one."""
    name, part = unit.place(role)
    layer = linear(model, name)
    bias = torch.zeros(outputs(layer)) if layer.bias is None else _vector(model, f"{name}.bias", masks)
    return unit.slice_of(name).gather(bias)[:, part]


def _vector(model: nn.Module, name: str, masks: MaskSet) -> Tensor:
    """A bias under its mask."""
    bias, mask = model.get_parameter(name).detach().cpu(), masks.get(name)
    return bias if mask is None else bias * mask.expand().to(bias)
