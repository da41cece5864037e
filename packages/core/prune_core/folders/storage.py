"""Weights on disk in another form than in memory, and the form of sparse ones: kept values and one bit a weight.

Under its own name `NAME.weight` has the kept values alone, in row order, and beside it is `NAME.weight_mask`: bits,
eight a byte, row by row. `from_pretrained` puts them together again, bit for bit; without prune_core it fails, for the
shape is another, where a name of its own would have left the weight at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import ConversionOps, PrefixChange, WeightConverter

from prune_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHT, MASK = "weight", "weight_mask"


@dataclass(frozen=True)
class Form:
    """How a weight is stored as two tensors: one under its own name, the other in the place `beside` it.

    `pack` gives the parts of a weight by place, the whole weight alone where that is how it is to be stored; `unpack`
    takes both parts and a tensor of the weight's shape and dtype.
    """

    beside: str
    pack: Callable[[Tensor], dict[str, Tensor]]
    unpack: Callable[[Tensor, Tensor, Tensor], Tensor]


def pack(weight: Tensor) -> dict[str, Tensor]:
    """Values and bits of a weight's non-zero entries."""
    kept = weight != 0
    return {WEIGHT: weight[kept].clone(), MASK: torch.from_numpy(np.packbits(kept.cpu().numpy()))}


def unpack(values: Tensor, bits: Tensor, like: Tensor) -> Tensor:
    """The weight of this shape that `pack` took apart; ModelError where values, bits and shape do not agree."""
    shape = like.shape
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


SPARSE = Form(MASK, pack, unpack)


def packed_state(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict with these weights taken apart."""
    packed = dict(state)
    for name in names:
        packed |= {f"{name.removesuffix(WEIGHT)}{part}": tensor for part, tensor in pack(packed[name]).items()}
    return packed


def unpack_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any, form: Form) -> None:
    """A hook before `load_state_dict`, which is how a Trainer resumes: put packed weights together, in place."""
    for beside in [name for name in state if name.endswith(f".{form.beside}")]:
        name = f"{beside.removesuffix(form.beside)}{WEIGHT}"
        like = module.get_parameter(name.removeprefix(prefix))
        state[name] = form.unpack(state[name], state.pop(beside), like)


def packable(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Those of these weights that lie on disk by themselves.

    Some of them transformers fuses there, as gate and up of DINOv2: their zeros are stored.
    """
    own = [one for one in get_model_conversion_mapping(model, add_legacy=False) if isinstance(one, WeightConverter)]
    fused = [pattern for one in own for pattern in one.target_patterns]
    return [name for name in names if not any(re.search(pattern, name) for pattern in fused)]


def converters(model: PreTrainedModel, layers: Iterable[str]) -> list[WeightConverter]:
    """transformers' steps to load the weights of these linears, packed or not, and to pack them when saved again."""
    return name_converters(model, packable(model, [f"{layer}.{WEIGHT}" for layer in layers]), SPARSE)


def name_converters(model: PreTrainedModel, names: Iterable[str], form: Form) -> list[WeightConverter]:
    """The same of weights that are stored in a form.

    Names are taken below the base model, as they are the same under every head.
    """
    own = [name.removeprefix(f"{model.base_model_prefix}.") for name in names]
    return [WeightConverter([name, f"{name.removesuffix(WEIGHT)}{form.beside}"], name, [Unpack(form)]) for name in own]


def repack_only(model: Any, layers: Iterable[str]) -> None:
    """Of a model that was loaded from packed weights, `save_pretrained` shall pack these linears and no other."""
    conversions: list[Any] = getattr(model, "_weight_conversions", None) or []
    others = [one for one in conversions if not _is_in(one, SPARSE.beside)]
    if len(others) < len(conversions):
        model._weight_conversions = [*others, *converters(model, layers)]


def store_too(model: Any, more: list[WeightConverter]) -> None:
    """`save_pretrained` shall store these as well, instead of what it stored in the same way before.

    A model that was not loaded has none of its own yet: transformers finds them when it saves, as they are found here.
    """
    known: list[Any] | None = getattr(model, "_weight_conversions", None)
    if known is None:
        found = get_model_conversion_mapping(model, add_legacy=False)
        known = [one for one in found if not isinstance(one, PrefixChange)]
    ways = [op.form.beside for one in more for op in one.operations if isinstance(op, Unpack)]
    model._weight_conversions = [*(one for one in known if not _is_in(one, *ways)), *more]


def _is_in(conversion: Any, *besides: str) -> bool:
    """Whether this step is of a form that stores one of these beside the weight."""
    return any(isinstance(op, Unpack) and op.form.beside in besides for op in getattr(conversion, "operations", ()))


@dataclass(frozen=True)
class Unpack(ConversionOps):
    """transformers' loading step for weights that are stored in a form."""

    form: Form

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        values, beside = (input_dict.get(pattern) for pattern in source_patterns)
        if values is None:
            raise ModelError(f"a weight has a {self.form.beside} and no values: the file is damaged")
        if beside is None:
            return {WEIGHT: _single(values)}
        like = kwargs["model"].get_parameter(kwargs["full_layer_name"])
        return {WEIGHT: self.form.unpack(_single(values), _single(beside), like)}

    @property
    def reverse_op(self) -> ConversionOps:
        return Pack(self.form)


@dataclass(frozen=True)
class Pack(ConversionOps):
    """The step back, when a loaded model is saved again."""

    form: Form

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (weight,) = input_dict.values()
        return self.form.pack(_single(weight))

    @property
    def reverse_op(self) -> ConversionOps:
        return Unpack(self.form)


def _single(found: Tensor | list[Tensor]) -> Tensor:
    """transformers hands over a tensor, or a list of one."""
    return found[0] if isinstance(found, list) else found
