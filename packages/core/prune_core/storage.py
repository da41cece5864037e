"""Sparse weights on disk: the kept values and one bit a weight, instead of every weight.

`NAME.weight` becomes `NAME.weight_values` (the kept values, in row order) and `NAME.weight_mask` (bits, eight a byte,
row by row). `from_pretrained` puts them together again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps, WeightConverter

from prune_core.errors import ModelError

VALUES, MASK = "weight_values", "weight_mask"


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Values and bits of a weight's non-zero entries."""
    kept = weight != 0
    return {VALUES: weight[kept].clone(), MASK: torch.from_numpy(np.packbits(kept.cpu().numpy()))}


def unpack(values: Tensor, bits: Tensor, shape: torch.Size) -> Tensor:
    """The weight that `pack` took apart; ModelError where values, bits and shape do not agree."""
    count = shape.numel()
    kept = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=min(count, bits.numel() * 8))).bool()
    if bits.numel() != -(-count // 8) or int(kept.sum()) != values.numel():
        raise ModelError(
            f"a sparse weight of shape {list(shape)} has {bits.numel()} bytes of mask, {int(kept.sum())} bits of them "
            f"set, but {values.numel()} values: the file is damaged"
        )
    weight = torch.zeros(count, dtype=values.dtype, device=values.device)
    weight[kept.to(values.device)] = values
    return weight.view(shape)


def packed_state(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict with these weights taken apart."""
    packed = dict(state)
    for name in names:
        weight = packed.pop(name)
        packed |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in pack(weight).items()}
    return packed


class Unpack(ConversionOps):
    """transformers' loading step for weights that were packed."""

    @classmethod
    def converter(cls, layer: str = "") -> WeightConverter:
        """For the weight of the linear at `layer`, or of any."""
        prefix = f"{layer}." if layer else ""
        return WeightConverter([f"{prefix}{VALUES}", f"{prefix}{MASK}"], f"{prefix}weight", [cls()])

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        shape = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape
        values, bits = (_single(input_dict[pattern]) for pattern in source_patterns)
        return {"weight": unpack(values, bits, shape)}

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


def repack_only(model: Any, layers: Iterable[str]) -> None:
    """Of a model that was loaded from packed weights, `save_pretrained` shall pack these linears again and no other.

    Its `load_state_dict` understands packed weights too: that is how a Trainer resumes.
    """
    conversions: list[Any] = getattr(model, "_weight_conversions", None) or []
    others = [one for one in conversions if not any(isinstance(op, Unpack) for op in getattr(one, "operations", ()))]
    if len(others) < len(conversions):
        model._weight_conversions = [*others, *map(Unpack.converter, layers)]


def unpack_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """A hook before `load_state_dict`: put packed weights together, in place."""
    for name in [name for name in state if name.endswith(f".{VALUES}")]:
        weight = f"{name.removesuffix(VALUES)}weight"
        shape = module.get_parameter(weight.removeprefix(prefix)).shape
        state[weight] = unpack(state.pop(name), state.pop(f"{name.removesuffix(VALUES)}{MASK}"), shape)


def _single(found: Tensor | list[Tensor]) -> Tensor:
    """transformers hands over a tensor, or a list of one."""
    return found[0] if isinstance(found, list) else found
