"""What a family may need beyond narrower linears, named by `AttentionLayout.adapter`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prune_core.compaction.stubs import NoAttention


class Adapter:
    """Two functions, called by compaction and by loading alike; on the meta device too. These here do nothing more."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        """Make `core`, whose linears have been cut to these of its heads, compute with them; in place."""

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        """What stands for `core` with no head left: `stub`, which has its output projection where it was inside."""
        return stub


def numbers(core: nn.Module, kept: Sequence[int]) -> list[int]:
    """Those of `kept` as the dense model counts its heads, for a core that may have been narrowed before."""
    before: Sequence[int] | None = getattr(core, "kept", None)
    return list(kept) if before is None else [before[index] for index in kept]
