"""The proof of a run that has ended, done again from what it left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_core.compaction import choose, compact
from prune_core.compaction.alignment import Alignment
from prune_core.embeddings.bits import round_embeddings
from prune_core.errors import RunError
from prune_core.masks import MaskSet
from prune_core.runs.preparation import make_job
from prune_core.runs.workspace import Workspace
from prune_core.verification.verify import (
    Verification,
    changed_files,
    expect,
    largest_difference,
    outputs,
    real_batches,
    verify,
)


def verify_run(run: Path) -> Verification:
    """Redo the proof from what a run left: its masked model, its masks, its recipe's data, and the model folder.

    A model that was filled has other weights than the masked one by intention: of it the sizes are compared. That its
    files, as all others', are those that the run proved is seen by their digests.
    """
    workspace = Workspace(run)
    manifest = workspace.read_manifest()
    if workspace.members():
        names = ", ".join(path.name for path in workspace.members())
        raise RunError(f"{run} holds a run at each of several densities: verify {names} in it")
    for folder in (workspace.masked, workspace.model):
        if not folder.is_dir():  # its path could be a name on the hub
            raise RunError(f"{folder} is gone: prune run {run} --resume makes it again")
    masks, recipe = MaskSet.load(workspace.masks), workspace.read_recipe()
    job = make_job(recipe)
    task = job.task
    batches = list(real_batches(task))
    masked = task.load_model(str(workspace.masked))
    alignment = Alignment.load(workspace.alignment, recipe.align) or Alignment()
    compactor = alignment.applied(choose(masks, recipe.compactor, job.plugins))
    compaction = compact(masked, masks, compactor, plugins=job.plugins)
    verification = verify(expect(masked, batches), compaction, batches)
    if recipe.embedding_bits:
        round_embeddings(compaction.model, recipe.embedding_bits)
    saved = task.load_model(str(workspace.model))
    _same_sizes(compaction.model, saved, workspace.model)
    verification = replace(verification, changed=changed_files(manifest, workspace.model))
    if manifest["filled"]:
        return verification
    difference = largest_difference(outputs(compaction.model, batches), outputs(saved, batches))
    return replace(verification, compact_vs_reloaded=max(difference, verification.compact_vs_reloaded))


def _same_sizes(expected: Any, found: Any, folder: Path) -> None:
    wanted = {name: tuple(parameter.shape) for name, parameter in expected.named_parameters()}
    there = {name: tuple(parameter.shape) for name, parameter in found.named_parameters()}
    wrong = [name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)]
    if wrong:
        name = sorted(wrong)[0]
        raise RunError(
            f"{folder} is not the model that the masks make: {name} has shape {there.get(name)}, "
            f"the masks leave {wanted.get(name)}; {len(wrong)} parameters differ"
        )
