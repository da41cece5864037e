"""DeBERTa's attention with fewer heads: its biases and the projections of relative positions lose the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.cutting import lines_of, narrow, select
from prune_core.errors import StructureError


class DebertaAdapter(Adapter):
    """Cuts them, where the configuration has them."""

    @staticmethod
    def check(core: nn.Module) -> None:
        if getattr(core, "talking_head", False):
            raise StructureError(
                "this DeBERTa mixes the heads of a layer (talking_head in its configuration): none can be removed; "
                "strategy.exclude: ['*.attention'] prunes the rest"
            )

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        assert isinstance(core, DisentangledSelfAttention)
        DebertaAdapter.check(core)
        rows = lines_of(core.attention_head_size, kept)
        for name in ("q_bias", "v_bias"):
            setattr(core, name, select(getattr(core, name), rows, 0))
        for name in ("pos_proj", "pos_q_proj"):
            if hasattr(core, name):
                narrow(cast(nn.Linear, getattr(core, name)), rows, "rows")
