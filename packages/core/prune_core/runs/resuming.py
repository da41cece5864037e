"""What a run that goes on relies on: what it had finished, and that its data are still those it was begun with."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from prune_core.distributed.processes import is_main
from prune_core.errors import RunError
from prune_core.files import write_text
from prune_core.runs.workspace import trained_by
from prune_core.training.checkpoints import is_whole
from prune_core.verification.verify import changed_files

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.recipe import Recipe
    from prune_core.runs.preparation import Preparation
    from prune_core.runs.workspace import Workspace

logger = logging.getLogger(__name__)

_ROWS = 1000


def finished(workspace: Workspace) -> dict[str, Any] | None:
    """What a run that has ended reported; None where it has not, or where a result must be made again.

    RunError where the model is another one than the run wrote: that may be somebody's work.
    """
    if not workspace.manifest.is_file():
        return None
    try:
        manifest = workspace.read_manifest()
    except RunError as error:
        logger.warning("%s", error)
        return None
    if not workspace.model.is_dir():
        logger.warning("%s is gone: it is made again", workspace.model)
        return None
    changed = changed_files(manifest, workspace.model)
    if changed:
        raise RunError(
            f"{workspace.model} is not as the run wrote it, {', '.join(changed)} differ: move it away, and "
            f"prune run {workspace.folder} --resume makes it again"
        )
    return manifest


def pruned(workspace: Workspace) -> bool:
    """Whether masks and masked model are there and whole; a warning names what is damaged, for it is made again."""
    if not (workspace.masks.is_file() and workspace.masked.is_dir()):
        return False
    weights = [workspace.masks, *workspace.masked.glob("*.safetensors")]
    damaged = [str(path) for path in weights if not is_whole(path)]
    if damaged:
        logger.warning("%s is damaged: it is made again from the last checkpoint", " and ".join(damaged))
    return not damaged


def keep_beginning(workspace: Workspace, ready: Preparation, recipe: Recipe) -> None:
    """Note which recipe and data a run is begun with; RunError where it goes on with other data."""
    if not is_main():
        return
    now = {"training": digest(ready.features), "validation": digest(ready.job.task.validation())}
    before = now | workspace.read_begun()
    for kind, found in now.items():
        if found != before[kind]:
            raise RunError(
                f"the {kind} data are not those that {workspace.folder} was begun with ({before[kind]['rows']} "
                f"examples then, {found['rows']} now, or others): bring them back, or start anew with --overwrite"
            )
    write_text(workspace.begun, json.dumps({**now, "recipe": trained_by(recipe)}) + "\n")


def digest(features: Dataset) -> dict[str, Any]:
    """Number and SHA-256 of examples, as they are stored: images of an image task before they are processed."""
    found = hashlib.sha256("\n".join(features.column_names).encode())
    for table in features.with_format("arrow").iter(_ROWS):
        fresh = table.take(pa.array(range(len(table))))  # what arrow stores of a slice depends on what it was cut from
        for batch in fresh.combine_chunks().to_batches():
            found.update(memoryview(batch.serialize()))
    return {"rows": len(features), "sha256": found.hexdigest()}
