"""Whole layers taken out, with the configuration in step: only such as hand on what they get, but for a constant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from prune_core.architectures import Stack
from prune_core.compaction.stock import field_of, stock
from prune_core.errors import ModelError
from prune_core.measure import dummy_inputs, placed
from prune_core.pretrained import usable_length
from prune_core.structure import Attention, ModelStructure, Unit, linear, outputs

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

T = TypeVar("T")

LENGTH = 8
"""Tokens of the random texts on which layers are watched."""


@dataclass(frozen=True)
class Layer:
    """One layer of a stack: its number there, the path of its module, its units."""

    stack: Stack
    number: int
    path: str
    units: tuple[Unit, ...]

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
        """The fields of the configuration that say how many layers there are, and what each is."""
        found: dict[str, Any] = {}
        for layer in self.gone:
            sizes, kept = layer.stack.sizes, self.numbers[layer.parent]
            assert sizes is not None
            found[str(sizes.layers)] = len(kept)
            for name in sizes.per_layer:
                if (entries := field_of(config, name) if hasattr(config, name) else None) is not None:
                    found[name] = [entries[number] for number in kept]
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        paths = ", ".join(layer.path for layer in self.gone)
        return (f"layers without effect are gone: {paths}",) if paths else ()

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
            path = f"{_output(layer[0]).partition(f'{inside}.')[0]}{inside}"
            found.append(Layer(stack, index, path, layer))
    return found


def shorten(
    model: PreTrainedModel, structure: ModelStructure, empty: Sequence[Layer]
) -> tuple[PreTrainedModel, Shortening]:
    """`model` without those of the `empty` layers that can go, rebuilt by its own class; itself where none can.

    An empty layer adds its output biases to what it gets, which the layer before it can do as well. Whether it does
    more, as where norms stand behind the sum (BERT), is seen by running the model on random inputs.
    """
    through = [layer for layer in empty if _replaceable(model, layer)]
    through = _handing_on(model, through) if through else []
    gone = [layer for one in _by_list(layers_of(structure)) for layer in _removed(model, one, through)]
    if not gone:
        return model, Shortening()
    shortening = Shortening(tuple(gone), _numbers(layers_of(structure), gone))
    state = shortening.renamed(dict(model.state_dict()))
    return stock(model, shortening.fields(model.config), state), shortening


def _by_list(layers: Iterable[Layer]) -> list[list[Layer]]:
    return [list(group) for _, group in groupby(layers, lambda layer: layer.parent)]


def _numbers(layers: Iterable[Layer], gone: Sequence[Layer]) -> dict[str, dict[int, int]]:
    kept = {group[0].parent: [layer.number for layer in group if layer not in gone] for group in _by_list(layers)}
    return {parent: {number: place for place, number in enumerate(numbers)} for parent, numbers in kept.items()}


def _replaceable(model: nn.Module, layer: Layer) -> bool:
    """Whether another layer of its list has all that it has: T5's first holds a table that the others read."""
    others = [other for name, other in model.get_submodule(layer.parent).named_children() if name != str(layer.number)]
    own = model.get_submodule(layer.path).state_dict().keys()
    return any(own == other.state_dict().keys() for other in others)


def _handing_on(model: PreTrainedModel, layers: Sequence[Layer]) -> list[Layer]:
    """Those that hand on what they get plus their output biases, on random inputs; none where no inputs are known."""
    try:
        inputs = dummy_inputs(model, 2, min(LENGTH, usable_length(model.config) or LENGTH))
    except ModelError:
        return []
    seen: set[str] = set()
    handles = [
        model.get_submodule(layer.path).register_forward_hook(_watch(layer, model, seen), with_kwargs=True)
        for layer in layers
    ]
    try:
        training = model.training
        model.eval()(**placed(inputs, model))
        model.train(training)
    finally:
        for handle in handles:
            handle.remove()
    return [layer for layer in layers if layer.path in seen]


def _watch(layer: Layer, model: nn.Module, seen: set[str]) -> Any:
    """A hook that adds the layer's path to `seen` where its output is its input and its constant, up to rounding."""
    constant = _constant(model, layer)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before: Tensor = args[0] if args else kwargs["hidden_states"]
        after: Tensor = output[0] if isinstance(output, tuple) else output
        bound = 8 * torch.finfo(after.dtype).eps * max(before.abs().max(), constant.abs().max())
        if (after - before - constant).abs().max() <= bound:
            seen.add(layer.path)

    return hook


def _removed(model: PreTrainedModel, layers: list[Layer], through: Sequence[Layer]) -> list[Layer]:
    """Those of a list's layers that go: one stays at least, and a constant needs a bias before it that takes it."""
    gone: list[Layer] = []
    before: Tensor | None = None
    for place, layer in enumerate(layers):
        constant = _constant(model, layer)
        last = place == len(layers) - 1 and len(gone) == place
        if layer not in through or last or (before is None and constant.any()):
            before = linear(model, _output(layer.units[-1])).bias
            continue
        if before is not None:
            before.add_(constant)
        gone.append(layer)
    return gone


def _constant(model: nn.Module, layer: Layer) -> Tensor:
    """What an empty layer adds to its input, [hidden size]: the sum of its output biases."""
    last = [linear(model, _output(unit)) for unit in layer.units]
    biases: list[Tensor] = [layer.bias for layer in last if layer.bias is not None]
    return torch.stack(biases).sum(0) if biases else last[0].weight.new_zeros(outputs(last[0]))


def _output(unit: Unit) -> str:
    return unit.output if isinstance(unit, Attention) else unit.down
