"""What has weights to prune, nn.Linear and Conv1D, alike: where one is in a model, its inputs and its outputs."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from prune_core.errors import StructureError
from prune_core.granularity import Axis

Linear = nn.Linear | Conv1D
"""What has weights to prune: [out, in], or [in, out] in a Conv1D."""


def linear(model: nn.Module, name: str) -> Linear:
    """The linear at a module path; StructureError when nothing, or something else, is there."""
    module = unadapted(model, name)
    if not isinstance(module, Linear):
        kind = type(module)
        raise StructureError(f"{name} is a {kind.__module__}.{kind.__qualname__}, a Linear was expected")
    return module


def unadapted(parent: nn.Module, name: str) -> nn.Module:
    """As `inside`; StructureError where an adapter of peft is around what was there."""
    module = inside(parent, name)
    if hasattr(module, "base_layer"):
        raise StructureError(
            f"{name} carries a PEFT adapter: merge it first (merge_and_unload()), or prune before it is added"
        )
    return module


def output_axis(layer: Linear) -> Axis:
    """Which lines of a linear's weight are its outputs, each with an entry of the bias."""
    return "rows" if isinstance(layer, nn.Linear) else "columns"


def outputs(layer: Linear) -> int:
    """How many features it gives."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.nf)


def inputs(layer: Linear) -> int:
    """How many features it takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else int(layer.nx)


def inside(parent: nn.Module, name: str) -> nn.Module:
    """The module of this name below `parent`; StructureError where a layout names what is not there.

    As `get_submodule` in a tenth of its time: loading asks for hundreds.
    """
    found: nn.Module | None = parent
    for child in name.split("."):
        found = found._modules.get(child) if found is not None else None
    if found is None:
        there = ", ".join(child for child, _ in parent.named_children())
        raise StructureError(f"there is no {name} in a {type(parent).__name__}: it has {there}")
    return found
