"""The layers of a model's stacks, and the model without some of them: rebuilt by its own class, the config in step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from prune_core.architectures import Stack
from prune_core.compaction.stock import empty, field_of, shapes, stock
from prune_core.errors import ModelError
from prune_core.structure import Attention, ModelStructure, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

T = TypeVar("T")

RECORD = "prune_layers"
"""Field of a configuration that says of each shortened stack which of its layers stayed, and how many it had."""


@dataclass(frozen=True)
class Layer:
    """One layer of a stack: its number there, the path of its module, its units."""

    stack: Stack
    number: int
    path: str
    units: tuple[Unit, ...]

    @property
    def key(self) -> str:
        """What the keys of its units begin with, as in "decoder.layer.3"."""
        return f"{self.stack.prefix}{self.number}"

    @property
    def parent(self) -> str:
        """The path of the list that it is in."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Shortening:
    """The layers that went, and the new number of each that stays, by the path of the list and its old number."""

    gone: tuple[Layer, ...] = ()
    numbers: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def renamed(self, named: Mapping[str, T]) -> dict[str, T]:
        """What is there by the name of a parameter, by its new name; less what belongs to a layer that went."""
        found = {self._name(name): value for name, value in named.items()}
        return {name: value for name, value in found.items() if name is not None}

    def fields(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The fields of the configuration that say how many layers there are, what each is, and which it was."""
        known = origins(config)
        found: dict[str, Any] = {}
        for layer in self.gone:
            sizes, kept = layer.stack.sizes, self.numbers[layer.parent]
            assert sizes is not None
            found[str(sizes.layers)] = len(kept)
            for name in sizes.per_layer:
                if (entries := field_of(config, name)) is not None:
                    found[name] = [entries[number] for number in kept]
            total = len(kept) + sum(one.parent == layer.parent for one in self.gone)
            before = origins(config).get(layer.stack.prefix, tuple(range(total + 1)))
            known[layer.stack.prefix] = (*(before[number] for number in kept), before[-1])
            found |= _stages(config, list(kept), total)
        record = {key.removesuffix("."): {"kept": list(one[:-1]), "of": one[-1]} for key, one in known.items()}
        return found | {RECORD: record}

    def _name(self, name: str) -> str | None:
        for parent, numbers in self.numbers.items():
            if match := re.match(rf"{re.escape(parent)}\.(\d+)(\..*)", name):
                number = numbers.get(int(match[1]))
                return None if number is None else f"{parent}.{number}{match[2]}"
        return name


def layers_of(structure: ModelStructure) -> list[Layer]:
    """The layers of all stacks that may lose some."""

    def number(unit: Unit) -> int:
        return int(unit.key.removeprefix(structure.stack_of(unit).prefix).partition(".")[0])

    found = []
    for stack in structure.stacks:
        if stack.sizes is None or stack.sizes.layers is None:
            continue
        units = [unit for unit in structure.units if structure.stack_of(unit) is stack]
        for index, group in groupby(units, number):
            layer = tuple(group)
            inside = f"{stack.layers}.{index}"
            path = f"{output_of(layer[0]).partition(f'{inside}.')[0]}{inside}"
            found.append(Layer(stack, index, path, layer))
    return found


def by_list(layers: Iterable[Layer]) -> list[list[Layer]]:
    """The layers of each list apart."""
    return [list(group) for _, group in groupby(layers, lambda layer: layer.parent)]


def without(
    model: PreTrainedModel, structure: ModelStructure, gone: Sequence[Layer]
) -> tuple[PreTrainedModel, Shortening]:
    """`model` less these layers, in evaluation mode or training as it is; its weights are the same tensors.

    StructureError where its class builds no such model.
    """
    shortening = Shortening(tuple(gone), _numbers(layers_of(structure), gone))
    fields, state = shortening.fields(model.config), dict(model.state_dict())
    kept = shortening.renamed(state)
    first = tuple(f"{layer.parent}.0." for layer in gone)
    for name in shapes(empty(model, fields)).keys() - kept.keys():
        if name.startswith(first) and name in state:  # T5's table of position biases is the first layer's, whichever
            kept[name] = state[name]
    return stock(model, fields, kept, "keep other layers"), shortening


def origins(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Which layers of the whole model the layers of a shortened stack were, and behind them how many that had.

    By what the keys of the stack's units begin with; nothing of a stack that is whole. State I of the hidden states is
    what enters layer I, so the same numbers say which states of the whole model belong to those of the shorter one.
    ModelError where a configuration says something else.
    """
    found: Any = getattr(config, RECORD, None) or {}
    try:
        return {f"{key}.": (*map(int, one["kept"]), int(one["of"])) for key, one in found.items()}
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        expected = '{"layer": {"kept": [0, 2], "of": 4}}'
        raise ModelError(f"config.json: {RECORD}: such as {expected} was expected, found {found}") from error


def output_of(unit: Unit) -> str:
    """The linear whose outputs a unit adds to what its layer hands on."""
    return unit.output if isinstance(unit, Attention) else unit.down


def _stages(config: PreTrainedConfig, kept: Sequence[int], total: int) -> dict[str, Any]:
    """The stages of a backbone, of which the first is what enters layer 0, and each other what a layer hands on."""
    names = getattr(config, "stage_names", ())
    if len(names) != total + 1:
        return {}
    given = [index % len(names) for index in config.out_indices]
    indices = sorted({sum(number < index for number in kept) for index in given})
    stages = {"stage_names": names[: len(kept) + 1]}
    return stages | {"_out_indices": indices, "_out_features": [names[index] for index in indices]}


def _numbers(layers: Iterable[Layer], gone: Sequence[Layer]) -> dict[str, dict[int, int]]:
    kept = {group[0].parent: [layer.number for layer in group if layer not in gone] for group in by_list(layers)}
    return {parent: {number: place for place, number in enumerate(numbers)} for parent, numbers in kept.items()}
