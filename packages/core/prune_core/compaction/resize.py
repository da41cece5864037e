"""Cut units down to the heads and neurons that are kept. Compaction and loading run this same code.

It works on the meta device too: loading cuts an empty skeleton before the weights come.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from prune_core.compaction.adapter import adapter_of
from prune_core.compaction.cutting import narrow
from prune_core.compaction.stubs import BiasOnly, NoAttention, Unused
from prune_core.granularity import Axis
from prune_core.linears import inside, linear, outputs
from prune_core.structure import HEAD_COUNTS, Attention, FeedForward, Unit

WIDTHS = ("all_head_size", "inner_dim", "split_size")
"""Attributes that families read the total width of all heads from: as of their number, each one that exists is set."""


def resize(model: nn.Module, unit: Unit, kept: Sequence[int]) -> None:
    """Keep only these heads (key/value heads with their queries) or neurons of `unit`, in place."""
    if isinstance(unit, Attention):
        _resize_attention(model, unit, kept)
    else:
        _resize_feed_forward(model, unit, kept)


def lines(unit: Unit, module: str, kept: Sequence[int]) -> tuple[Tensor, Axis]:
    """Rows or columns of one linear of `unit` that belong to the kept heads or neurons."""
    whole, chosen = unit.slice_of(module), torch.zeros(unit.count, dtype=torch.bool, device="cpu")
    chosen[list(kept)] = True
    return whole.spread(chosen).nonzero().flatten(), whole.axis


def _narrow(model: nn.Module, unit: Unit, kept: Sequence[int]) -> None:
    for module in unit.linears():
        layer = linear(model, module)
        if layer.weight.is_meta:  # a skeleton has no lines to choose from: their number is enough
            whole = unit.slice_of(module)
            narrow(layer, range(len(kept) * sum(whole.sizes)), whole.axis)
        else:
            narrow(layer, *lines(unit, module, kept))


def _resize_attention(model: nn.Module, unit: Attention, kept: Sequence[int]) -> None:
    if not kept:
        _remove_attention(model, unit)
        return
    _narrow(model, unit, kept)
    core = inside(model, unit.core)
    queries = len(kept) * unit.queries_per_key
    values = dict.fromkeys(HEAD_COUNTS, queries) | dict.fromkeys(WIDTHS, queries * unit.head_size)
    for name, value in (values | {"num_key_value_heads": len(kept)}).items():
        if hasattr(core, name):
            setattr(core, name, value)
    if len(kept) < unit.key_value_heads:
        adapter_of(unit).narrow(core, kept)


def _remove_attention(model: nn.Module, unit: Attention) -> None:
    projection = _bias_only(model, unit.output)
    core = inside(model, unit.core)
    place = None if unit.cross else getattr(core, "layer_idx", None)
    inner = unit.output.removeprefix(f"{unit.core}.")
    if inner == unit.output:
        model.set_submodule(unit.output, projection)
        stub = NoAttention(layer_idx=place)
    else:
        stub = NoAttention(inner, projection, place)
    model.set_submodule(unit.core, adapter_of(unit).empty(core, stub))


def _resize_feed_forward(model: nn.Module, unit: FeedForward, kept: Sequence[int]) -> None:
    if kept:
        _narrow(model, unit, kept)
        return
    model.set_submodule(unit.down, _bias_only(model, unit.down))
    for name in (unit.up, unit.gate):
        if name:
            model.set_submodule(name, Unused())


def _bias_only(model: nn.Module, name: str) -> BiasOnly:
    layer = linear(model, name)
    return BiasOnly(cast(nn.Parameter | None, layer.bias), layer.weight, outputs(layer))
