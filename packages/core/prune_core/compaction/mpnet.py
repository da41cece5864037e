"""MPNet's attention with fewer heads: of the position bias that all layers share it takes what belongs to its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from prune_core.compaction.adapter import Adapter, numbers, of_heads


class FewerHeads(MPNetSelfAttention):
    """The heads `kept` of the dense model's, in its order; `position_bias` is [1, its heads, queries, keys]."""

    kept: list[int]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, ...]:
        own = None if position_bias is None else of_heads(position_bias, self.kept)
        forward: Callable[..., tuple[Tensor, ...]] = super().forward
        return forward(hidden_states, attention_mask, own, output_attentions, **kwargs)


class MPNetAdapter(Adapter):
    """Makes it."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        core.kept = numbers(core, kept)  # type: ignore[assignment]  # a plain attribute
        core.__class__ = FewerHeads
