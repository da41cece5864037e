"""GPT-NeoX's attention without heads: its cache has another name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.stubs import NoAttention


class NoHeads(NoAttention):
    """As ever, but for that name."""

    def forward(self, hidden_states: Tensor, *args: Any, layer_past: Any = None, **kwargs: Any) -> tuple[Tensor, None]:
        return super().forward(hidden_states, past_key_values=layer_past)


class GPTNeoXAdapter(Adapter):
    """Makes it."""

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        stub.__class__ = NoHeads
        return stub
