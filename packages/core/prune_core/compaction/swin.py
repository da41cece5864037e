"""Swin's attention with fewer heads: the table of its position bias [positions, heads] loses the same columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.swin.modeling_swin import SwinAttention

from prune_core.compaction.adapter import Adapter
from prune_core.compaction.cutting import select


class SwinAdapter(Adapter):
    """Cuts it."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        assert isinstance(core, SwinAttention)
        bias = core.relative_position_bias
        bias.relative_position_bias_table = select(bias.relative_position_bias_table, torch.tensor(kept), 1)
