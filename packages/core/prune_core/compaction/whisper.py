"""Whisper's cross-attention without heads: generation hands out keys and values of every layer, so there are some."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperAttention

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.stubs import NoAttention


class NoHeads(nn.Module):
    """Its output bias; the cache gets zeros of one head and one feature, [batch, 1, sounds, 1], once."""

    def __init__(self, projection: nn.Module, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.out_proj = projection

    def forward(
        self, hidden_states: Tensor, key_value_states: Tensor | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if isinstance(past_key_values, EncoderDecoderCache) and key_value_states is not None:
            self._fill(past_key_values, key_value_states.new_zeros(len(hidden_states), 1, key_value_states.shape[1], 1))
        return self.out_proj(hidden_states), None

    def _fill(self, cache: EncoderDecoderCache, nothing: Tensor) -> None:
        if not cache.is_updated.get(self.layer_idx):
            cache.cross_attention_cache.update(nothing, nothing, self.layer_idx)
            cache.is_updated[self.layer_idx] = True


class WhisperAdapter(Adapter):
    """Makes it."""

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        assert isinstance(core, WhisperAttention)
        assert core.layer_idx is not None
        return NoHeads(stub.get_submodule("out_proj"), core.layer_idx)
