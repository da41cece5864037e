"""Word embeddings in 8 or 4 bits on disk: rounded on request, and from then on stored without any loss.

Each row is cut into groups of 32, and a weight is code x 2^exponent, the exponent being its group's (this is how MXINT8
of the Open Compute Project has it). Such a product is exact in every float type, so the loaded model has the same
values in all of them, and what is stored again is the same bytes. `NAME.weight` has the codes, row by row, and
`NAME.weight_exponent` the exponents; without prune_core loading fails, for the shape is another.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.errors import ModelError
from prune_core.folders.storage import WEIGHT, Form, name_converters, store_too

EXPONENT = "weight_exponent"
GROUP = 32
_LOWEST = -126
"""Smaller exponents are of numbers that float32 and bfloat16 do not hold in full: they become 0."""


def round_embeddings(model: PreTrainedModel, bits: int = 8) -> tuple[str, ...]:
    """Round the word embeddings of `model`, in place, to so many bits, in which it will be saved; returns their names.

    Word embeddings are what `get_input_embeddings` gives, of the model or of a model in it, where that is an
    nn.Embedding; a head that is tied to them is rounded with them. ModelError where there are none, or none that can
    be rounded: nothing has changed then.
    """
    from prune_core.folders.loading import record_embedding_bits

    names = need_word_embeddings(model, bits)
    weights = [model.get_parameter(name) for name in names]
    for name, weight in zip(names, weights, strict=True):
        if not _can_be_rounded(weight):
            raise ModelError(
                f"{name} cannot be stored in {bits} bits: not all of its values are finite and small enough"
            )
    with torch.no_grad():
        for weight in weights:
            weight.copy_(rounded(weight, bits))
    record_embedding_bits(model, bits, [owner for owner, _ in _owners(model)])
    store_too(model, converters(model, bits))
    return names


def need_word_embeddings(model: PreTrainedModel, bits: int) -> tuple[str, ...]:
    """Names of the word embeddings that are to be rounded; ModelError where there are none."""
    names = word_embeddings(model)
    if not names:
        raise ModelError(
            f"embedding_bits: {type(model).__name__} has no word embeddings to store in {bits} bits; leave it out"
        )
    return names


def word_embeddings(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the weights of word embeddings, each once, as they are on disk where several are tied."""
    found = {id(weight) for _, weight in _owners(model)}
    own = [name for name, weight in model.named_parameters() if id(weight) in found]
    return tuple(dict.fromkeys(model.all_tied_weights_keys.get(name, name) for name in own))


def _owners(model: PreTrainedModel) -> list[tuple[PreTrainedModel, Tensor]]:
    """The models in `model`, itself among them, that have word embeddings, and the weights of those."""
    found = []
    for module in model.modules():
        with suppress(NotImplementedError):  # what models of images and sounds say
            table = module.get_input_embeddings() if isinstance(module, PreTrainedModel) else None
            if isinstance(module, PreTrainedModel) and isinstance(table, nn.Embedding):
                found.append((module, table.weight))
    return found


def converters(model: PreTrainedModel, bits: int) -> list[Any]:
    """transformers' steps to load word embeddings, in few bits or in full, and to store them when saved again."""
    return name_converters(model, word_embeddings(model), form(bits))


def form(bits: int) -> Form:
    """How word embeddings are stored in so many bits; ModelError for a number that is none of ours."""
    if bits not in (4, 8):
        raise ModelError(
            f"embeddings in {bits} bits are unknown to this prune-core (it reads 4 and 8): install a later one"
        )
    return Form(EXPONENT, partial(stored, bits=bits), partial(unpack, bits=bits))


def stored(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Codes and exponents where they lose nothing; the weight itself where it was trained since it was rounded."""
    if _can_be_rounded(weight):
        codes, exponents = pack(weight, bits)
        if torch.equal(unpack(codes, exponents, weight, bits), weight):
            return {WEIGHT: codes, EXPONENT: exponents}
    return {WEIGHT: weight}


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest weight that so many bits hold; rounding it again changes nothing."""
    return unpack(*pack(weight, bits), weight, bits)


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes (bytes) and exponents (rows, groups), both int8, of a weight (rows, columns).

    A group has the smallest exponent that holds its largest value v. As its code is then more than half of the
    largest code, the same exponent is found again.
    """
    largest_code = 2 ** (bits - 1) - 1
    groups = _grouped(weight.to(torch.promote_types(weight.dtype, torch.float32)))
    largest = groups.abs().amax(-1, keepdim=True)
    mantissa, exponents = torch.frexp(largest)  # of v = mantissa x 2^exponent, 0.5 <= mantissa < 1
    exponents = exponents - (bits - 1) + (mantissa > largest_code / 2 ** (bits - 1))
    exponents = exponents.masked_fill(largest == 0, _LOWEST).clamp(min=_LOWEST)
    codes = (groups * _power(-exponents)).round().to(torch.int8).flatten(1)[:, : weight.shape[1]]
    return _to_bytes(codes.flatten(), bits), exponents.squeeze(-1).to(torch.int8)


def unpack(codes: Tensor, exponents: Tensor, like: Tensor, bits: int) -> Tensor:
    """The weight that `pack` made these of, in shape and dtype `like` another; ModelError where they do not fit it."""
    rows, columns = like.shape
    fitting = codes.shape == (-(-rows * columns * bits // 8),) and exponents.shape == (rows, -(-columns // GROUP))
    if not fitting or (codes.dtype, exponents.dtype) != (torch.int8, torch.int8):
        raise ModelError(
            f"an embedding of shape {list(like.shape)} in {bits} bits has codes of shape {list(codes.shape)} and "
            f"exponents of shape {list(exponents.shape)}, {codes.dtype} and {exponents.dtype}: the file is damaged"
        )
    groups = _grouped(_from_bytes(codes, bits)[: rows * columns].view(rows, columns).float())
    values = groups * _power(exponents.unsqueeze(-1))
    return values.flatten(1)[:, :columns].to(like.dtype)


def _can_be_rounded(weight: Tensor) -> bool:
    """Whether no value is nan or infinite, or becomes so when it is rounded up, to twice itself at the most."""
    limit = min(torch.finfo(weight.dtype).max, torch.finfo(torch.float32).max) / 2
    return bool((weight.abs() <= limit).all())


def _grouped(weight: Tensor) -> Tensor:
    """Rows in groups (rows, groups, 32), the last of them filled up with zeros."""
    return F.pad(weight, (0, -weight.shape[1] % GROUP)).view(weight.shape[0], -1, GROUP)


def _power(exponents: Tensor) -> Tensor:
    """2^exponent as float32, exactly: an exponent from -126 to 127 is put in its place among the bits."""
    bits: Tensor = exponents.int() + 127 << 23
    return bits.view(torch.float32)


def _to_bytes(codes: Tensor, bits: int) -> Tensor:
    """Codes of 4 bits, two a byte, the first in the lower half."""
    if bits == 8:
        return codes.contiguous()
    pairs = F.pad(codes, (0, codes.numel() % 2)).view(-1, 2)
    return pairs[:, 0] & 15 | pairs[:, 1] << 4


def _from_bytes(codes: Tensor, bits: int) -> Tensor:
    return codes if bits == 8 else torch.stack((codes << 4 >> 4, codes >> 4), dim=1).flatten()
