"""Empty layers taken out: only such as hand on what they get, but for a constant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from prune_core.compaction.layers import Layer, Shortening, by_list, layers_of, output_of, without
from prune_core.errors import ModelError
from prune_core.linears import linear, outputs
from prune_core.measure import dummy_inputs, fitted, placed
from prune_core.measure.forwards import evaluating
from prune_core.structure import ModelStructure

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

LENGTH = 8
"""Tokens of the random texts on which layers are watched."""


def shorten(
    model: PreTrainedModel, structure: ModelStructure, empty: Sequence[Layer]
) -> tuple[PreTrainedModel, Shortening]:
    """`model` without those of the `empty` layers that can go, rebuilt by its own class; itself where none can.

    An empty layer adds its output biases to what it gets, which the layer before it can do as well. Whether it does
    more, as where norms stand behind the sum (BERT), is seen by running the model on random inputs.
    """
    through = [layer for layer in empty if _replaceable(model, layer)]
    through = _handing_on(model, through) if through else []
    gone = [layer for one in by_list(layers_of(structure)) for layer in _removed(model, one, through)]
    if not gone:
        return model, Shortening()
    return without(model, structure, gone)


def _replaceable(model: nn.Module, layer: Layer) -> bool:
    """Whether another layer of its list has all that it has: T5's first holds a table that the others read."""
    others = [other for name, other in model.get_submodule(layer.parent).named_children() if name != str(layer.number)]
    own = model.get_submodule(layer.path).state_dict().keys()
    return any(own == other.state_dict().keys() for other in others)


def _handing_on(model: PreTrainedModel, layers: Sequence[Layer]) -> list[Layer]:
    """Those that hand on what they get plus their output biases, on random inputs; none where no inputs are known."""
    try:
        inputs = dummy_inputs(model, 2, fitted(model, LENGTH))
    except ModelError:
        return []
    seen: set[str] = set()
    with ExitStack() as hooks, evaluating(model):
        for layer in layers:
            watch = _watch(layer, model, seen)
            hooks.enter_context(model.get_submodule(layer.path).register_forward_hook(watch, with_kwargs=True))
        model(**placed(inputs, model))
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
            before = linear(model, output_of(layer.units[-1])).bias
            continue
        if before is not None:
            before.add_(constant)
        gone.append(layer)
    return gone


def _constant(model: nn.Module, layer: Layer) -> Tensor:
    """What an empty layer adds to its input, [hidden size]: the sum of its output biases."""
    last = [linear(model, output_of(unit)) for unit in layer.units]
    biases: list[Tensor] = [layer.bias for layer in last if layer.bias is not None]
    return torch.stack(biases).sum(0) if biases else last[0].weight.new_zeros(outputs(last[0]))
