"""What a family may need beyond narrower linears, named by `AttentionLayout.adapter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from prune_core.compaction.stubs import BiasOnly


class Adapter(Protocol):
    """Two functions, called by compaction and by loading alike; on the meta device too."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        """Make `core`, whose linears have been cut to these of its heads, compute with them; in place."""

    @staticmethod
    def empty(core: nn.Module, projection: BiasOnly) -> nn.Module:
        """What stands for `core` with no head left; `projection` is what its output linear became."""
