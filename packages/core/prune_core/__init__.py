"""Make transformers smaller and really faster by pruning.

Importing this package is enough for compact models to load with transformers' own `from_pretrained`. It imports
neither torch nor transformers by itself: the names below are loaded when they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prune_core.compaction import compact
    from prune_core.compactor import Compaction, Compactor
    from prune_core.errors import PruneError
    from prune_core.masks import Mask, MaskSet
    from prune_core.pruning import Pruning
    from prune_core.saving import save_compact
    from prune_core.strategy import Context, Progress, Strategy, StrategyConfig

_HOMES = {
    "Compaction": "compactor",
    "Compactor": "compactor",
    "compact": "compaction",
    "PruneError": "errors",
    "Mask": "masks",
    "MaskSet": "masks",
    "save_compact": "saving",
    "Context": "strategy",
    "Progress": "strategy",
    "Strategy": "strategy",
    "StrategyConfig": "strategy",
    "Pruning": "pruning",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prune_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"prune_core.{_HOMES[name]}"), name)


def _register_loader(module: Any) -> None:
    importlib.import_module("prune_core.loading")


wrapt.register_post_import_hook(_register_loader, "transformers.quantizers.auto")
