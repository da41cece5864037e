"""The dense compactor, what it leaves where a unit has nothing left, and the choice of a compactor for masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune_core.errors import MaskError, PluginError
from prune_core.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.compactor import Compaction, Compactor
    from prune_core.masks import MaskSet


def compact(model: PreTrainedModel, masks: MaskSet, compactor: str = "auto", *, inplace: bool = False) -> Compaction:
    """Remove physically what `masks` say. `compactor`: a name, or "auto" for the one that accepts these masks.

    The model is left as it was unless `inplace`. MaskError where the masks do not fit it.
    """
    from prune_core.loading import structure_of

    chosen = choose(masks, compactor, load_plugins())
    return chosen.compact(model, masks, structure_of(model), inplace=inplace)


def choose(masks: MaskSet, name: str, plugins: Plugins) -> Compactor:
    """The compactor of this name, or with "auto" the only one that accepts the masks' granularities."""
    kinds = masks.granularities()
    if name != "auto":
        chosen: type[Compactor] = plugins.load("compactors", name)
        if not kinds <= chosen.accepts:
            raise MaskError(f"the compactor {name!r} does not accept {', '.join(sorted(kinds - chosen.accepts))} masks")
        return chosen()
    known: dict[str, type[Compactor]] = {
        other: plugins.load("compactors", other) for other in plugins.names("compactors")
    }
    fitting = [other for other, candidate in known.items() if kinds <= candidate.accepts]
    if len(fitting) == 1:
        return known[fitting[0]]()
    found = f"several accept them: {', '.join(fitting)}" if fitting else f"none of {', '.join(known)} accepts them"
    raise PluginError(f"no compactor chosen for {', '.join(sorted(kinds))} masks: {found}; name one with --compactor")
