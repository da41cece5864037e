"""T5's attention with fewer heads, or none.

The first layer of a stack computes a position bias of every head and hands it on, layer by layer. It stays whole, and
each layer takes of it what belongs to its own heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from prune_core.compaction.adapter import Adapter, numbers, of_heads
from prune_core.compaction.cutting import select
from prune_core.compaction.stubs import NoAttention, remember_length

Answer = tuple[Tensor, Tensor | None, Tensor | None]
"""Output [batch, length, hidden], position bias [1, heads of the dense model, queries, keys], attention weights."""


class FewerHeads(T5Attention):
    """The heads `kept` of the dense model's, in its order. Cross-attention has no bias: nothing is handed on."""

    kept: list[int]

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Answer:
        whole, own = None, None
        if key_value_states is None:
            whole = _whole_bias(self, hidden_states, past_key_values) if position_bias is None else position_bias
            own = of_heads(whole, self.kept)
        answer = super().forward(hidden_states, mask, key_value_states, own, past_key_values, **kwargs)
        return answer[0], whole, answer[2]


class NoHeads(nn.Module):
    """An attention module without heads; the first layer of a stack still computes the position bias of the others."""

    compute_bias = T5Attention.compute_bias
    _relative_position_bucket = staticmethod(T5Attention._relative_position_bucket)

    def __init__(self, core: T5Attention, projection: nn.Module) -> None:
        super().__init__()
        self.layer_idx = core.layer_idx
        self.is_decoder = core.is_decoder
        self.relative_attention_num_buckets = core.relative_attention_num_buckets
        self.relative_attention_max_distance = core.relative_attention_max_distance
        if core.has_relative_attention_bias:
            self.relative_attention_bias = core.relative_attention_bias
        self.o = projection

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Answer:
        if key_value_states is not None:
            return self.o(hidden_states), None, None
        if position_bias is None:
            position_bias = _whole_bias(self, hidden_states, past_key_values)
        if past_key_values is not None and self.layer_idx is not None:
            remember_length(past_key_values, hidden_states, self.layer_idx)
        return self.o(hidden_states), position_bias, None


class T5Adapter(Adapter):
    """Makes them."""

    alike = True

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        core.kept = numbers(core, kept)  # type: ignore[assignment]  # a plain attribute
        core.__class__ = FewerHeads

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        assert isinstance(core, T5Attention)
        return NoHeads(core, stub.get_submodule("o"))

    @staticmethod
    def narrow_shared(core: nn.Module, kept: Sequence[int]) -> None:
        assert isinstance(core, T5Attention)
        if core.has_relative_attention_bias:
            table = core.relative_attention_bias
            table.weight = select(table.weight, torch.tensor(kept), 1)


def _whole_bias(core: Any, hidden_states: Tensor, cache: Any) -> Tensor:
    """The bias of every head for queries [batch, length, hidden] behind what the cache holds, as T5 computes it."""
    length = hidden_states.shape[1]
    past, keys = (0, length) if cache is None else _past(cache, length, core.layer_idx)
    bias: Tensor = core.compute_bias(length, keys, device=hidden_states.device, past_seen_tokens=past)
    return bias


def _past(cache: Any, length: int, layer_idx: int) -> tuple[Any, int]:
    """How many positions the cache holds, and how many keys there are with `length` more."""
    past = cache.get_seq_length(layer_idx)
    past = past.clone() if isinstance(past, Tensor) else past  # a static cache counts on in the same tensor
    return past, cache.get_mask_sizes(length, layer_idx)[0]
