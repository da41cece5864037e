"""Models that were pruned elsewhere: zeros that anybody left, torch.nn.utils.prune, and the shrunk matrices of 2021.

nn_pruning and transformers 4 wrote the heads that they had removed to `pruned_heads` in config.json, and smaller
matrices beside it, which transformers 5 does not load. Here such a model becomes a dense one again, zeros where
something is gone; its zeros are its masks, and compaction goes on from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict

from prune_core.compaction.resize import lines
from prune_core.errors import MaskError, ModelError, brief
from prune_core.files import weight_files
from prune_core.folders.card import needs_us
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved, read_config, saved_class
from prune_core.granularity import Element
from prune_core.masks import Mask, MaskSet
from prune_core.plugins import Plugins
from prune_core.structure import Attention, ModelStructure, Unit

_ORIGINAL, _MASK = "_orig", "_mask"
"""What torch.nn.utils.prune appends to the name of a parameter that it prunes."""

State = dict[str, Tensor]


def load_pruned(path: str, plugins: Plugins | None = None) -> PreTrainedModel:
    """The model of a folder or hub name as a dense one of its own dtype, with zeros where something was pruned.

    Its units are those that `plugins` (all that are installed, by default) describe. ModelError where its matrices fit
    neither its configuration nor the `pruned_heads` that it names.
    """
    config, folder = read_config(path), Path(path)
    if not folder.is_dir() or getattr(config, "quantization_config", None) is not None:
        return load_saved(path, "auto")
    state = _state(folder)
    whole = _widened(_unmasked(state), config, path, plugins)
    if whole.keys() == state.keys() and all(whole[name] is state[name] for name in whole):
        return load_saved(path, "auto")
    with tempfile.TemporaryDirectory() as draft:
        config.__dict__.pop("pruned_heads", None)
        config.save_pretrained(draft)
        save_file({name: tensor.contiguous() for name, tensor in whole.items()}, Path(draft) / "model.safetensors")
        return load_saved(draft, "auto")


def masks_of_zeros(model: PreTrainedModel, structure: ModelStructure) -> MaskSet:
    """The zeros of the prunable weights as masks; MaskError where there is none."""
    found = {}
    for name, weight in structure.weights(model):
        kept = weight.detach() != 0
        if not kept.all():
            found[name] = Mask(Element(), kept.cpu(), tuple(weight.shape))
    if not found:
        why = "nothing was pruned here, or it was never baked in; give the file of masks"
        if needs_us(model):
            why = "it is compact already; for another compaction give the dense model and the file of masks"
        raise MaskError(
            f"none of the {len(structure.linears())} prunable weights of this {type(model).__name__} has a zero: {why}"
        )
    return MaskSet(found)


def _state(folder: Path) -> State:
    """All weights of a folder. Files of PyTorch are read as data only: nothing in them is executed."""
    state: State = {}
    for path in weight_files(folder):
        try:
            state |= load_state_dict(path, weights_only=True)
        except UnpicklingError as error:
            raise ModelError(
                f"{path} holds more than weights, or is damaged; nothing in it was run: convert it to safetensors"
            ) from error
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {brief(error)}") from error
    return state


def _unmasked(state: State) -> State:
    """The same, NAME_orig and NAME_mask of torch.nn.utils.prune multiplied to NAME."""
    pruned = {name.removesuffix(_ORIGINAL) for name in state if name.endswith(_ORIGINAL)}
    pruned = {name for name in pruned if f"{name}{_MASK}" in state}
    parts = {f"{name}{part}" for name in pruned for part in (_ORIGINAL, _MASK)}
    rest = {name: tensor for name, tensor in state.items() if name not in parts}
    return rest | {name: state[f"{name}{_ORIGINAL}"] * state[f"{name}{_MASK}"] for name in pruned}


def _widened(state: State, config: PreTrainedConfig, path: str, plugins: Plugins | None) -> State:
    """The same, smaller matrices of a unit at the size that the configuration says, zeros in the new places."""
    with torch.device("meta"):
        skeleton: Any = saved_class(config, path)(config)
    shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
    found = dict(state)
    for unit in structure_of(skeleton, plugins).units:
        kept = _kept(unit, state, shapes, config)
        for module in unit.linears() if kept is not None else ():
            index, axis = lines(unit, module, kept or [])
            for name, along in ((f"{module}.weight", 0 if axis == "rows" else 1), (f"{module}.bias", 0)):
                if name in state and state[name].shape != shapes[name]:
                    found[name] = _spread(state[name], shapes[name], along, index, name)
    return found


def _kept(unit: Unit, state: State, shapes: dict[str, torch.Size], config: PreTrainedConfig) -> list[int] | None:
    """Heads or neurons of the dense model that a unit's matrices hold; None where they are whole, or not there."""
    module = unit.value if isinstance(unit, Attention) else unit.up
    first, whole = f"{module}.weight", unit.slice_of(module)
    if first not in state or state[first].shape == shapes[first]:
        return None
    lines, size = state[first].shape[0 if whole.axis == "rows" else 1], sum(whole.sizes)
    if not isinstance(unit, Attention):
        return list(range(lines // size))
    pruned = _pruned_heads(config, unit.key)
    kept = [head for head in range(unit.key_value_heads) if head not in pruned]
    if len(kept) * size != lines:
        raise ModelError(
            f"{first} has {lines} {whole.axis}; pruned_heads in config.json leaves {len(kept)} of "
            f"{unit.key_value_heads} heads of {size} in {unit.key}: the two do not belong together"
        )
    return kept


def _pruned_heads(config: PreTrainedConfig, key: str) -> Iterable[int]:
    """Heads that the configuration says were removed of a unit such as layer.3.attention."""
    listed = getattr(config, "pruned_heads", None) or {}
    layer = key.removeprefix("layer.").removesuffix(".attention")
    return {int(head) for name, heads in listed.items() if str(name) == layer for head in heads}


def _spread(tensor: Tensor, shape: torch.Size, axis: int, index: Tensor, name: str) -> Tensor:
    fits = tensor.shape[axis] == len(index) and all(
        size == whole for at, (size, whole) in enumerate(zip(tensor.shape, shape, strict=True)) if at != axis
    )
    if not fits:
        raise ModelError(f"{name} has shape {list(tensor.shape)}, which is no part of {list(shape)}")
    return tensor.new_zeros(shape).index_copy_(axis, index, tensor)
