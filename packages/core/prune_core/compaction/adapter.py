"""What a family may need beyond narrower linears, named by `AttentionLayout.adapter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from prune_core.compaction.stubs import NoAttention
from prune_core.plugins import import_target
from prune_core.structure import Attention


class Adapter:
    """Called by compaction, `narrow` and `empty` by loading as well; on the meta device too. Here they do nothing.

    `check` is called before a model is trained whose heads may go.
    """

    alike: ClassVar[bool] = False
    """Whether the layers of a stack share something of every head, such as position biases: where the layers are to be
    those of a stock class, all of them keep the same heads."""

    @staticmethod
    def check(core: nn.Module) -> None:
        """Raise the StructureError of a `core` that can lose no head."""

    @staticmethod
    def narrow(core: nn.Module, kept: Sequence[int]) -> None:
        """Make `core`, whose linears have been cut to these of its heads, compute with them; in place."""

    @staticmethod
    def empty(core: nn.Module, stub: NoAttention) -> nn.Module:
        """What stands for `core` with no head left: `stub`, which has its output projection where it was inside."""
        return stub

    @staticmethod
    def narrow_shared(core: nn.Module, kept: Sequence[int]) -> None:
        """Cut what `core` holds for all layers of its stack to these heads; in place."""


def adapter_of(unit: Attention) -> type[Adapter]:
    """The adapter that the unit's layout names."""
    found: type[Adapter] = import_target(unit.adapter) if unit.adapter else Adapter
    return found


def of_heads(values: Tensor, kept: Sequence[int]) -> Tensor:
    """Of values [batch, heads of the dense model, ...] those of the heads `kept`, which rise. By slices: to select by
    a list of numbers, a GPU would wait for them at each call.
    """
    starts = [head for head in kept if head - 1 not in kept]
    ends = [head + 1 for head in kept if head + 1 not in kept]
    return torch.cat([values[:, start:end] for start, end in zip(starts, ends, strict=True)], dim=1)


def numbers(core: nn.Module, kept: Sequence[int]) -> list[int]:
    """Those of `kept` as the dense model counts its heads, for a core that may have been narrowed before."""
    before: Sequence[int] | None = getattr(core, "kept", None)
    return list(kept) if before is None else [before[index] for index in kept]
