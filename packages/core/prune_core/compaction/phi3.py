"""Phi-3's attention with fewer heads: how many queries its linear gives, it reads in the configuration of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prune_core.compaction.adapter import Adapter


class OwnHeads:
    """A configuration in all but the number of heads, also where it is changed later."""

    def __init__(self, config: Any, heads: int) -> None:
        self.shared = config
        self.num_attention_heads = heads

    def __getattr__(self, name: str) -> Any:
        if name == "shared":  # a copy of it is not filled yet
            raise AttributeError(name)
        return getattr(self.shared, name)


class Phi3Adapter(Adapter):
    """Gives the module that."""

    @staticmethod
    def narrow(core: Any, kept: Sequence[int]) -> None:
        config = core.config
        shared = config.shared if isinstance(config, OwnHeads) else config
        core.config = OwnHeads(shared, len(kept) * core.num_key_value_groups)
