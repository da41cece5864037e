"""Sparse weights on disk: the kept values and one bit a weight, instead of every weight.

Under its own name `NAME.weight` has the kept values alone, in row order, and beside it is `NAME.weight_mask`: bits,
eight a byte, row by row. `from_pretrained` puts them together again, bit for bit; without prune_core it fails, for the
shape is another, where a name of its own would have left the weight at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from prune_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT, MASK = "weight", "weight_mask"


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Values and bits of a weight's non-zero entries."""
    kept = weight != 0
    return {WEIGHT: weight[kept].clone(), MASK: torch.from_numpy(np.packbits(kept.cpu().numpy()))}


def unpack(values: Tensor, bits: Tensor, shape: torch.Size) -> Tensor:
    """The weight that `pack` took apart; ModelError where values, bits and shape do not agree."""
    count = shape.numel()
    kept = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=min(count, bits.numel() * 8))).bool()
    if bits.numel() != -(-count // 8) or values.shape != (int(kept.sum()),):
        raise ModelError(
            f"a sparse weight of shape {list(shape)} has {bits.numel()} bytes of mask, {int(kept.sum())} bits of them "
            f"set, but values of shape {list(values.shape)}: the file is damaged"
        )
    weight = torch.zeros(count, dtype=values.dtype, device=values.device)
    weight[kept.to(values.device)] = values
    return weight.view(shape)


def packed_state(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict with these weights taken apart."""
    packed = dict(state)
    for name in names:
        packed |= {f"{name.removesuffix(WEIGHT)}{part}": tensor for part, tensor in pack(packed[name]).items()}
    return packed


def unpack_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """A hook before `load_state_dict`, which is how a Trainer resumes: put packed weights together, in place."""
    for mask in [name for name in state if name.endswith(f".{MASK}")]:
        name = f"{mask.removesuffix(MASK)}{WEIGHT}"
        state[name] = unpack(state[name], state.pop(mask), module.get_parameter(name.removeprefix(prefix)).shape)


def packable(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Those of these weights that lie on disk by themselves.

    Some of them transformers fuses there, as gate and up of DINOv2: their zeros are stored.
    """
    own = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightConverter)]
    fused = [pattern for one in own for pattern in one.target_patterns]
    return [name for name in names if not any(re.search(pattern, name) for pattern in fused)]


def converters(model: PreTrainedModel, layers: Iterable[str]) -> list[WeightConverter]:
    """transformers' steps to load the weights of these linears, packed or not, and to pack them when saved again.

    Names are taken below the base model, as they are the same under every head.
    """
    prefix = f"{model.base_model_prefix}."
    names = [name.removeprefix(prefix) for name in packable(model, [f"{layer}.{WEIGHT}" for layer in layers])]
    return [WeightConverter([name, f"{name}_mask"], name, [Unpack()]) for name in names]


def repack_only(model: Any, layers: Iterable[str]) -> None:
    """Of a model that was loaded from packed weights, `save_pretrained` shall pack these linears and no other."""
    conversions: list[Any] = getattr(model, "_weight_conversions", None) or []
    others = [one for one in conversions if not any(isinstance(op, Unpack) for op in getattr(one, "operations", ()))]
    if len(others) < len(conversions):
        model._weight_conversions = [*others, *converters(model, layers)]


class Unpack(ConversionOps):
    """transformers' loading step for weights that were packed."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        values, bits = (input_dict.get(pattern) for pattern in source_patterns)
        if values is None:
            raise ModelError("a sparse weight has a mask and no values: the file is damaged")
        if bits is None:
            return {WEIGHT: _single(values)}
        shape = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape
        return {WEIGHT: unpack(_single(values), _single(bits), shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        return Pack()


class Pack(ConversionOps):
    """The step back, when a loaded model is saved again."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (weight,) = input_dict.values()
        return pack(_single(weight))

    @property
    def reverse_op(self) -> ConversionOps:
        return Unpack()


def _single(found: Tensor | list[Tensor]) -> Tensor:
    """transformers hands over a tensor, or a list of one."""
    return found[0] if isinstance(found, list) else found
