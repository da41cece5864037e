"""Models as transformers builds them from a configuration, and whether their sizes are those of given weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from prune_core.errors import StructureError
from prune_core.folders.pretrained import from_state

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

Shapes = Mapping[str, torch.Size]

_IMPOSSIBLE = (StrictDataclassError, ValueError, TypeError, ArithmeticError, RuntimeError)
"""What classes raise for sizes that they cannot have: heads that do not divide the hidden size, for one."""


def field_of(config: PreTrainedConfig, path: str) -> Any:
    """The value at a dotted path; None where there is no such field."""
    found: Any = config
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def with_fields(config: PreTrainedConfig, values: Mapping[str, Any]) -> PreTrainedConfig:
    """A copy with these fields set, by dotted path."""
    changed = copy.deepcopy(config)
    for path, value in values.items():
        *parts, name = path.split(".")
        setattr(reduce(getattr, parts, changed), name, value)
    return changed


def empty(model: PreTrainedModel, fields: Mapping[str, Any]) -> PreTrainedModel | None:
    """What the class of `model` builds from its configuration changed in these fields, on the meta device.

    None where that cannot be: a number of heads that does not divide the hidden size, for one.
    """
    try:
        with torch.device("meta"):
            built: PreTrainedModel = type(model)(with_fields(model.config, fields))
    except _IMPOSSIBLE:
        return None
    return built


def shapes(model: PreTrainedModel | None) -> Shapes:
    """Shapes of all that a model saves; none of no model."""
    return {} if model is None else {name: tensor.shape for name, tensor in model.state_dict().items()}


def stock(
    model: PreTrainedModel,
    fields: Mapping[str, Any],
    state: dict[str, Tensor],
    instead: str = "use --compactor dense",
) -> PreTrainedModel:
    """What the class of `model` builds from its configuration changed in these fields, with the weights of `state`.

    StructureError, naming the first of them and what to do `instead`, where the class would have other weights or the
    same in other shapes.
    """
    expected, found = shapes(empty(model, fields)), {name: tensor.shape for name, tensor in state.items()}
    wrong = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise StructureError(
            f"a plain {type(model).__name__} cannot hold this model: {name} would be {_size(found, name)} and its "
            f"configuration makes it {_size(expected, name)}; {instead}"
        )
    built: PreTrainedModel = from_state(model, with_fields(model.config, fields), state)
    nn.Module.to(built, model.device)
    built.train(model.training)
    return built


def _size(known: Shapes, name: str) -> str:
    return str(list(known[name])) if name in known else "missing"
