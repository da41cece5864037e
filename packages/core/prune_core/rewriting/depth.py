"""Whole layers that a user asks to have removed: what is pruned starts without them, as DistilBERT did.

A layer that is removed hands on what it gets. So the shorter model is the whole one with these layers bypassed,
wherever its norms stand, and that is what it is compared with (arXiv:1910.01108 initialises a student so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from prune_core.architectures import Sizes, Stack
from prune_core.compaction.layers import Layer, Shortening, by_list, layers_of, without
from prune_core.errors import ModelError, RecipeError, StructureError
from prune_core.verification.verify import exact_outputs, expect

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from prune_core.recipe import DepthSection
    from prune_core.structure import ModelStructure


def shortened(
    model: PreTrainedModel, structure: ModelStructure, section: DepthSection
) -> tuple[PreTrainedModel, Shortening]:
    """`model` less the layers that `section` removes, rebuilt by its own class; itself where it removes none.

    The shorter model's weights are the same tensors. RecipeError where the section does not fit the model,
    StructureError where its family cannot lose layers.
    """
    if not section.asked:
        return model, Shortening()
    structure = _countable(model, structure)
    gone = _chosen(structure, section)
    return without(model, structure, gone) if gone else (model, Shortening())


@contextmanager
def bypassed(model: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """In the meantime each of these layers of `model` hands on what it gets."""
    handles = [model.get_submodule(one.path).register_forward_hook(_bypass, with_kwargs=True) for one in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prove(model: PreTrainedModel, shorter: PreTrainedModel, layers: Sequence[Layer], batch: dict[str, Tensor]) -> None:
    """StructureError where `shorter` does not compute what `model` does with these layers bypassed, on a `batch`."""
    with bypassed(model, layers):
        expected = expect(model, [batch])
    difference, allowed = expected.furthest(exact_outputs(shorter, [batch]))
    if not difference <= allowed:
        raise StructureError(
            f"{type(model).__name__} without {', '.join(layer.key for layer in layers)} is another function than with "
            f"these layers bypassed, by {difference:.2e}: layers go by their place there; keep other layers"
        )


def _bypass(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    before = args[0] if args else kwargs["hidden_states"]
    return (before, *output[1:]) if isinstance(output, tuple) else before


def _countable(model: PreTrainedModel, structure: ModelStructure) -> ModelStructure:
    """The structure, its one stack with the usual field for the number of layers where no family names any.

    ModelError for a compact model, StructureError where there is no such field.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError("this model is compact already: remove layers of the model that it came from")
    if len(structure.stacks) == 1 and structure.stacks[0].sizes is None:
        structure = replace(structure, stacks=(_usual(model, structure.stacks[0]),))
    if not layers_of(structure):
        raise StructureError(
            f"{structure.architecture} models cannot lose layers: no field of the configuration is known for their "
            "number (Stack.sizes); leave depth out"
        )
    return structure


def _usual(model: PreTrainedModel, stack: Stack) -> Stack:
    listed = "*" in stack.layers or not hasattr(model.config, "num_hidden_layers")
    return stack if listed else replace(stack, sizes=Sizes(per_layer=("layer_types",)))


def _chosen(structure: ModelStructure, section: DepthSection) -> list[Layer]:
    """The layers to remove."""
    layers = layers_of(structure)
    gone = {layer.key for name in section.drop for layer in _named(name, layers)}
    stacks = by_list(layers)
    for stack, count in _counts(section.keep, stacks):
        if count > len(stack):
            raise RecipeError(f"depth.keep: {count} layers cannot stay of {len(stack)} ({_listed(stack)})")
        gone |= {layer.key for index, layer in enumerate(stack) if index not in spread(count, len(stack))}
    for stack in stacks:
        if gone.issuperset(layer.key for layer in stack):
            raise RecipeError(f"depth.drop: one layer at least must stay of {_listed(stack)}")
    return [layer for layer in layers if layer.key in gone]


def spread(count: int, total: int) -> list[int]:
    """So many layers of a total, spread evenly, the first and the last among them: 0, 2, 4, 7, 9 and 11 of 12."""
    return [round(index * (total - 1) / (count - 1)) for index in range(count)] if count > 1 else [0]


def _named(name: str, layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a key such as layer.1, of a module path such as encoder.layer.1, or of a glob of either."""
    found = [one for one in layers if fnmatchcase(one.key, name) or fnmatchcase(f".{one.path}", f"*.{name}")]
    if not found:
        raise RecipeError(f"depth.drop: {name!r} names no layer that can go; there are {_listed(layers)}")
    return found


def _counts(keep: int | Mapping[str, int] | None, stacks: Sequence[list[Layer]]) -> Iterator[tuple[list[Layer], int]]:
    names = {stack[0].stack.name: stack for stack in stacks}
    if isinstance(keep, Mapping):
        for name, count in keep.items():
            if name not in names:
                there = ", ".join(filter(None, names)) or "none with a name: give a number"
                raise RecipeError(f"depth.keep: there is no stack {name!r}; there are {there}")
            yield names[name], count
    elif keep is not None:
        if len(stacks) > 1:
            example = ",".join(f"{name}={min(keep, len(stack))}" for name, stack in names.items())
            raise RecipeError(f"depth.keep: {keep} of which stack? Such as --keep-layers {example} was expected")
        yield stacks[0], keep


def _listed(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{stack[0].key} to {stack[-1].key}" for stack in by_list(layers))
