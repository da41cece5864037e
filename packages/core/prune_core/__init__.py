"""Make transformers smaller and really faster by pruning.

Importing this package is enough for compact models to load with transformers' own `from_pretrained`. It imports
neither torch nor transformers by itself: the names below are loaded when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prune_core.compaction import compact as compact
    from prune_core.compactor import Compaction as Compaction
    from prune_core.compactor import Compactor as Compactor
    from prune_core.embeddings.bits import round_embeddings as round_embeddings
    from prune_core.errors import PruneError as PruneError
    from prune_core.folders.saving import save_compact as save_compact
    from prune_core.masks import Mask as Mask
    from prune_core.masks import MaskSet as MaskSet
    from prune_core.pruning import Pruning as Pruning
    from prune_core.strategy import Context as Context
    from prune_core.strategy import Progress as Progress
    from prune_core.strategy import Strategy as Strategy
    from prune_core.strategy import StrategyConfig as StrategyConfig

_HOMES = {
    "compact": "compaction",
    "Compaction": "compactor",
    "Compactor": "compactor",
    "round_embeddings": "embeddings.bits",
    "PruneError": "errors",
    "Mask": "masks",
    "MaskSet": "masks",
    "Pruning": "pruning",
    "save_compact": "folders.saving",
    "Context": "strategy",
    "Progress": "strategy",
    "Strategy": "strategy",
    "StrategyConfig": "strategy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prune_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"prune_core.{_HOMES[name]}"), name)


def _register_loader(module: Any) -> None:
    importlib.import_module("prune_core.folders.loading")


wrapt.register_post_import_hook(_register_loader, "transformers.quantizers.auto")
