"""Sparse weights on disk: the kept values and one bit a weight, instead of every weight.

`NAME.weight` becomes `NAME.weight_values` (the kept values, in row order) and `NAME.weight_mask` (bits, eight a byte,
row by row). `from_pretrained` puts them together again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
    if kept.numel() != count or int(kept.sum()) != values.numel():
        raise ModelError(
            f"a sparse weight of shape {list(shape)} has {kept.numel()} mask bits, {int(kept.sum())} of them set, "
            f"but {values.numel()} values: the file is damaged"
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
    def converter(cls) -> WeightConverter:
        return WeightConverter([VALUES, MASK], "weight", [cls()])

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        shape = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape
        return {"weight": unpack(_single(input_dict[VALUES]), _single(input_dict[MASK]), shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        return Pack()


class Pack(ConversionOps):
    """The step back, when a loaded model is saved again."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        return pack(_single(input_dict["weight"]))

    @property
    def reverse_op(self) -> ConversionOps:
        return Unpack()


def _single(found: Tensor | list[Tensor]) -> Tensor:
    """transformers hands over a tensor, or a list of one."""
    return found[0] if isinstance(found, list) else found
