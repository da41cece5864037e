"""ALBERT's attention module without heads: it adds its input and norms the sum as well, which stays."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.albert.modeling_albert import AlbertAttention

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.stubs import NoAttention


class NoHeads(nn.Module):
    """What is left of `core`: its input and its output bias, normed."""

    def __init__(self, core: AlbertAttention, projection: nn.Module) -> None:
        super().__init__()
        self.dense = projection
        self.output_dropout = core.output_dropout
        self.LayerNorm = core.LayerNorm

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        added = self.output_dropout(self.dense(hidden_states))
        return self.LayerNorm(hidden_states + added), None


class AlbertAdapter(Adapter):
    """Makes it."""

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        assert isinstance(core, AlbertAttention)
        return NoHeads(core, stub.get_submodule("dense"))
