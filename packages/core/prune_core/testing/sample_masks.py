"""Masks to compact by: random ones of every granularity, whole units, and heads of which one matrix is empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.compaction.resize import lines
from prune_core.folders.loading import structure_of
from prune_core.granularity import (
    NM,
    Block,
    Column,
    Element,
    Granularity,
    Row,
    RowsColumns,
)
from prune_core.kit.binarizers import n_of_m
from prune_core.kit.masked import empties_outputs
from prune_core.linears import linear, output_axis
from prune_core.masks import Mask, MaskSet, bias_mask
from prune_core.structure import Attention, FeedForward, Role, Unit

_ANYWHERE: dict[str, Granularity] = {
    "element": Element(),
    "block": Block(4, 8),
    "row": Row(),
    "column": Column(),
    "rows_columns": RowsColumns(),
    "n:m": NM(2, 4),
}

KINDS: tuple[str, ...] = (*_ANYWHERE, "head", "neuron")
"""Kinds of granularity that `random_masks` can make."""


def random_masks(model: PreTrainedModel, kind: str, *, sparse: bool = False, seed: int = 0) -> MaskSet:
    """Masks of one kind in which about a third survives; biases go with their rows."""
    generator = torch.Generator().manual_seed(seed)
    if kind in ("head", "neuron"):
        wanted = Attention if kind == "head" else FeedForward
        whole = unit_masks(model, lambda unit: _some(unit, generator) if isinstance(unit, wanted) else None)
        return MaskSet(whole, sparse=sparse)
    granularity = _ANYWHERE[kind]
    masks: dict[str, Mask] = {}
    for name in structure_of(model).linears():
        shape = tuple(linear(model, name).weight.shape)
        masks |= _pair(model, name, granularity, _random(granularity, shape, generator))
    return MaskSet(masks, sparse=sparse)


def unit_masks(model: PreTrainedModel, kept: Callable[[Unit], Iterable[int] | None]) -> MaskSet:
    """Masks that keep these heads or neurons of each unit; None leaves a unit alone."""
    masks: dict[str, Mask] = {}
    for unit in structure_of(model).units:
        indices = kept(unit)
        if indices is None:
            continue
        values = torch.zeros(unit.count, dtype=torch.bool)
        values[list(indices)] = True
        for name in unit.linears():
            masks |= _pair(model, name, unit.slice_of(name), values)
    return MaskSet(masks)


def uneven(model: PreTrainedModel) -> dict[str, list[int]]:
    """Heads or neurons to keep of each unit, by its key: some, none, one, all or few in turn."""
    structure = structure_of(model)
    heads = (slice(None, None, 2), slice(0), slice(-1, None), slice(None))
    neurons = (slice(3, None, 15), slice(20, 51), slice(0), slice(11, 12))
    return _in_turn(structure.attention, heads) | _in_turn(structure.ffn, neurons)


def emptied_rows(model: PreTrainedModel, role: str, *, biases: bool) -> MaskSet:
    """Element masks in which the first head has nothing left in one matrix: "query", "key", "value" or "output"."""
    masks: dict[str, Mask] = {}
    for unit in structure_of(model).attention:
        name, part = unit.place(Role.ATTENTION_OUTPUT if role == "output" else Role(role))
        first, axis = lines(unit, name, [0])
        values = torch.ones_like(linear(model, name).weight, dtype=torch.bool)
        (values if axis == "rows" else values.T)[first[part][: unit.head_size]] = False
        pair = _pair(model, name, Element(), values)
        masks |= pair if biases else {f"{name}.weight": pair[f"{name}.weight"]}
    return MaskSet(masks)


def _some(unit: Unit, generator: torch.Generator) -> list[int]:
    total = unit.count
    kept: list[int] = torch.randperm(total, generator=generator)[: max(total // 3, 1)].tolist()
    return kept


def _in_turn(units: Sequence[Unit], parts: Sequence[slice]) -> dict[str, list[int]]:
    return {unit.key: list(range(unit.count))[parts[index % len(parts)]] for index, unit in enumerate(units)}


def _random(granularity: Granularity, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    scores = torch.rand(granularity.score_shape(shape), generator=generator)
    if isinstance(granularity, NM):
        return n_of_m(scores, granularity.n, granularity.m).bool()
    return scores < (0.58 if isinstance(granularity, RowsColumns) else 0.33)


def _pair(model: nn.Module, name: str, granularity: Granularity, values: Tensor) -> dict[str, Mask]:
    """The mask of a weight, and of its bias unless whole inputs were cut: the outputs live on."""
    layer = linear(model, name)
    shape = tuple(layer.weight.shape)
    masks = {f"{name}.weight": Mask(granularity, values, shape)}
    if layer.bias is not None and empties_outputs(granularity, layer):
        masks[f"{name}.bias"] = bias_mask(granularity, values, shape, output_axis(layer))
    return masks
