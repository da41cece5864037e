"""Compact models with another size in each layer, some of them empty, and batches of several sizes."""

from functools import lru_cache

from prune_core import compact
from prune_core.exporting.batches import made_up
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import tiny_model


@lru_cache(maxsize=4)
def compacted(family):
    """Every unit keeps some, none, one or all of its heads or neurons in turn."""
    model = tiny_model(family)
    kept = uneven(model)
    return compact(model, unit_masks(model, lambda unit: kept[unit.key])).model.eval()


@lru_cache(maxsize=4)
def batches(family):
    return made_up(compacted(family))
