"""The dense compactor, what it leaves where a unit has nothing left, and the choice of a compactor for masks."""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import TYPE_CHECKING

from prune_core.compactor import Compactor
from prune_core.errors import MaskError, ModelError, PluginError
from prune_core.plugins import Plugins, load_plugins

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.compactor import Compaction
    from prune_core.masks import MaskSet

logger = logging.getLogger(__name__)


def compact(
    model: PreTrainedModel,
    masks: MaskSet,
    compactor: str | Compactor = "auto",
    *,
    inplace: bool = False,
    plugins: Plugins | None = None,
) -> Compaction:
    """Remove physically what `masks` say. `compactor`: one, its name, or "auto" for the one that accepts these masks.

    The model is left as it was unless `inplace`. Compactors and families are those of `plugins`, all that are installed
    by default. MaskError where the masks do not fit the model, ModelError where it is still being pruned.
    """
    from prune_core.folders.loading import structure_of
    from prune_core.masks import STATE

    if hasattr(model, STATE):
        raise ModelError(f"this {type(model).__name__} is still being pruned: call finish(), and compact it then")
    plugins = load_plugins() if plugins is None else plugins
    chosen = choose(masks, compactor, plugins) if isinstance(compactor, str) else compactor
    structure = structure_of(model, plugins)
    masks.check_units(structure.sizes())
    return chosen.compact(model, masks, structure, inplace=inplace)


def choose(masks: MaskSet, name: str, plugins: Plugins) -> Compactor:
    """The compactor of this name, or with "auto" the only one that accepts the masks' granularities.

    With "auto" a compactor that cannot be used stands in nobody's way: it is skipped with a warning.
    """
    kinds = masks.granularities()
    chosen = _fitting(kinds, plugins)() if name == "auto" else _named(kinds, name, plugins)()
    chosen.check_masks(masks)
    return chosen


def _named(kinds: Set[str], name: str, plugins: Plugins) -> type[Compactor]:
    chosen = _usable(name, plugins)
    if not kinds <= chosen.accepts:
        raise MaskError(f"the compactor {name!r} does not accept {', '.join(sorted(kinds - chosen.accepts))} masks")
    return chosen


def _fitting(kinds: Set[str], plugins: Plugins) -> type[Compactor]:
    known: dict[str, type[Compactor]] = {}
    skipped: list[str] = []
    for name in plugins.names("compactors"):
        try:
            known[name] = _usable(name, plugins)
        except PluginError as error:
            skipped.append(f"{name} was skipped: {error}")
    fitting = [name for name, candidate in known.items() if kinds <= candidate.accepts and candidate.automatic]
    if len(fitting) != 1:
        raise PluginError("; ".join([_undecided(kinds, fitting, list(known)), *skipped]))
    for reason in skipped:
        logger.warning("the compactor %s", reason)
    return known[fitting[0]]


def _usable(name: str, plugins: Plugins) -> type[Compactor]:
    """The class of this name; PluginError when it cannot be imported or is no compactor."""
    found = plugins.load("compactors", name)
    if isinstance(found, type) and issubclass(found, Compactor) and isinstance(getattr(found, "accepts", None), Set):
        return found
    raise PluginError(
        f"the compactor {name!r} is {found!r}, a Compactor with a set of granularities in `accepts` was expected"
    )


def _undecided(kinds: Set[str], fitting: list[str], known: list[str]) -> str:
    found = "none is installed that can be used, install one"
    if known:
        found = f"none of {', '.join(known)} accepts them, install one that does"
    if fitting:
        found = f"several accept them: {', '.join(fitting)}; name one with --compactor"
    return f"no compactor chosen for {', '.join(sorted(kinds))} masks: {found}"
