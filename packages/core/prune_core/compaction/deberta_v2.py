"""DeBERTa v2's attention with fewer heads: the projections of relative positions lose the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.cutting import lines_of, narrow


class DebertaV2Adapter(Adapter):
    """Cuts them, where the configuration has them."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        rows = lines_of(cast(int, core.attention_head_size), kept)
        for name in ("pos_key_proj", "pos_query_proj"):
            if hasattr(core, name):
                narrow(cast(nn.Linear, getattr(core, name)), rows, "rows")
