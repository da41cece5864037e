"""A model whose weights are divided among the processes of a run (FSDP2): each holds its part of every matrix.

A layer's weights are whole in the meantime of its forward and backward pass alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from prune_core.distributed.agreement import processes


def twin(model: PreTrainedModel, shared: Sequence[str]) -> PreTrainedModel:
    """A copy of `model` that has the submodules named `shared` in common with it."""
    common = [module for name in shared for module in model.get_submodule(name).modules()]
    return copy.deepcopy(model, {id(module): module for module in common})


def shard(model: PreTrainedModel, device: torch.device, whole: Sequence[str] = ()) -> None:
    """Divide the weights of `model` among the processes, each on its `device`, but for those of the submodules `whole`.

    It is still called as before, by all processes at once.
    """
    for name in whole:
        model.get_submodule(name).to(device)
    kept = {parameter for name in whole for parameter in model.get_submodule(name).parameters()}
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}  # which cannot be divided
    for parameter in scalars:
        parameter.data = parameter.data.to(device)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (processes(),)),
        "ignored_params": kept | scalars,
    }
    for layer in _layers(model, whole):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    model._is_fsdp_managed_module = True  # type: ignore[assignment]  # generation then ends in all processes at once


def undivided(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be divided; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def bring_back(divided: nn.Module, model: nn.Module) -> None:
    """Give `model`, whole and on the CPU, the weights of its twin; in all processes."""
    model.cpu()
    for name, weight in divided.named_parameters():
        model.get_parameter(name).copy_(undivided(weight))
    for name, buffer in divided.named_buffers():
        model.get_buffer(name).copy_(buffer)


def _layers(model: nn.Module, whole: Sequence[str]) -> dict[nn.Module, None]:
    """The members of every list of modules that lies in no other: what a transformer repeats."""
    seen = [*whole]
    found: dict[nn.Module, None] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not f"{name}.".startswith(tuple(f"{one}." for one in seen)):
            seen.append(name)
            found |= dict.fromkeys(module)
    return found
