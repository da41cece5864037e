"""`prune compact`: the masked model of a folder becomes the compact model of another, proven on the way."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_core.compaction import choose, compact
from prune_core.compaction.alignment import align
from prune_core.embeddings.rounding import round_measured
from prune_core.errors import MaskError
from prune_core.files import refuse_occupied
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.folders.processors import find_processor
from prune_core.folders.rescue import load_pruned, masks_of_zeros
from prune_core.folders.shipping import portably
from prune_core.masks import MaskSet
from prune_core.measure import dummy_inputs, fitted, folder_size, placed
from prune_core.recipe import Recipe
from prune_core.rewriting.depth import bypassed, shortened
from prune_core.runs.configuring import plugins_of
from prune_core.verification.reach import expected_through
from prune_core.verification.verify import save_proven, save_verified, told, verify

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.structure import ModelStructure


def compact_folder(model: Path, masks: Path | None, output: Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Compact the masked model in a folder by a file of masks, prove it on random inputs, and write it to `output`.

    Without `masks` it is a model that was pruned elsewhere: its zeros are its masks. The dtype stays. Of a
    `recipe` the compactor, the alignment and what it is measured by, the layers to remove, the architecture, the
    plugins, whether to be portable and the bits of embeddings are read. What is rounded was proven before, and is
    measured.
    """
    refuse_occupied(output)
    recipe = recipe or Recipe()
    plugins = plugins_of(recipe)
    dense = load_saved(str(model), "auto") if masks else load_pruned(str(model), plugins)
    structure = structure_of(dense, plugins)
    decided = MaskSet.load(masks) if masks else _zeros(dense, structure, recipe)
    decided.check_units(structure.sizes())
    decided.bake(dense)
    shorter, shortening = shortened(dense, structure, recipe.depth)
    share = structure_of(shorter, plugins).size(shorter) / structure.size(dense)
    batches = [placed(dummy_inputs(dense, 4, fitted(dense, 16)), dense)]
    gone = {unit for layer in shortening.gone for unit in layer.units}
    with bypassed(dense, shortening.gone):
        pruned = [unit for unit in structure.under(decided).units if unit not in gone]
        expected = expected_through(dense, pruned, batches)
    left = MaskSet(shortening.renamed(decided), sparse=decided.sparse)
    compactor = choose(left, recipe.compactor, plugins)
    alignment = align(shorter, left, structure_of(shorter, plugins), recipe)
    with told():
        compaction = compact(shorter, left, alignment.applied(compactor), inplace=True, plugins=plugins)
    shipped = portably(output, plugins, compaction, batches, model) if recipe.portable else nullcontext(output)
    beside: dict[str, Any] = {"processor": find_processor(model), "source": model}
    rounding = None
    with shipped as folder:
        if recipe.embedding_bits:
            verification = verify(expected, compaction, batches).enforce()
            rounding = round_measured(compaction.model, recipe.embedding_bits, batches)
            save_verified(compaction, folder, batches, **beside)
        else:
            verification = save_proven(expected, compaction, batches, folder, **beside)
    removed = ", ".join(layer.key for layer in shortening.gone)
    return {
        "output": str(output),
        "density": compaction.density * share,
        **({} if compaction.ragged is None else {"density_of_ragged_layers": compaction.ragged * share}),
        "bytes": folder_size(output),
        **({"bytes_in_full": folder_size(output) + rounding.saved, "rounding": asdict(rounding)} if rounding else {}),
        "verification": asdict(verification),
        "units": [asdict(unit) for unit in compaction.units],
        "alignment": alignment.to_dict(),
        "notes": [*compaction.notes, *alignment.notes(), *([f"layers were removed: {removed}"] if removed else [])],
    }


def _zeros(model: PreTrainedModel, structure: ModelStructure, recipe: Recipe) -> MaskSet:
    """The zeros of a model as masks; where it gets smaller without them there need be none."""
    try:
        return masks_of_zeros(model, structure)
    except MaskError:
        if not (recipe.depth.asked or recipe.embedding_bits):
            raise
        return MaskSet({})
