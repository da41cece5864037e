"""The folder of a run: what lies where, and whether it may be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prune_core.errors import RecipeError, RunError
from prune_core.files import is_draft, remove, remove_drafts, write_text
from prune_core.recipe import TEACHERS, Recipe, differences, read_yaml
from prune_core.runs.locking import LOCK, held
from prune_core.runs.places import PLACES, absolute, moved_along, sources

logger = logging.getLogger(__name__)

_UNTRAINED = ("output", "device", "measure", "embedding_bits", "plugins")
"""Nothing that is trained depends on these fields of a recipe."""
_FURTHER = ("fill", "quantize")
"""Trainings of the compact model: their checkpoints have the sizes that the compactor made."""
_LATE = ("compactor", "embedding_bits", "measure")
"""What the results of a run depend on, and its masks do not."""
_REPORTED = ("output", "summary", "filled")
"""Without these a manifest is none."""


@dataclass(frozen=True)
class Workspace:
    """Paths of a run. `lessons`: where the teacher's outputs lie that several runs share."""

    folder: Path
    lessons: Path | None = None

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def masks(self) -> Path:
        return self.folder / "masks.safetensors"

    @property
    def masked(self) -> Path:
        """The fine-pruned model before compaction: dense shapes, zeros baked in."""
        return self.folder / "masked"

    @property
    def alignment(self) -> Path:
        """How many neurons the compact model's units hold, where they were aligned."""
        return self.folder / "alignment.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def begun(self) -> Path:
        """With which recipe and data the run was begun."""
        return self.checkpoints / "begun.json"

    @property
    def teacher(self) -> Path:
        """What the teacher puts out for each training example, while it is needed."""
        return self.lessons or self.folder / "teacher"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def is_run(self) -> bool:
        """Whether a run made this folder: its masks or checkpoints lie beside its recipe, or the recipe names it.

        A recipe.yaml alone proves nothing: any project may have one.
        """
        if not self.recipe.is_file():
            return False
        own = (self.masks, self.begun, self.checkpoints / "prune")
        return any(path.exists() for path in own) or self._is_named()

    def made(self) -> list[Path]:
        """What a run leaves here, of what there is; the recipe last, so that half of it is still a run's."""
        results = [self.manifest, self.metrics, self.masks, self.masked, self.alignment, self.model]
        own = [*results, self.checkpoints, self.teacher, *self.members(), *self._demonstration(), self.recipe]
        return [path for path in own if path.exists() or path.is_symlink()]

    def members(self) -> list[Path]:
        """Folders of the runs that a run through several densities consists of."""
        return [path for path in sorted(self.folder.glob("density-*")) if Workspace(path).is_run()]

    def has_trained_compact(self) -> bool:
        """Whether a training of the compact model has left a checkpoint, here or at one of several densities."""
        folders = [self, *map(Workspace, self.members())]
        return any(any(one.checkpoints.glob(f"{stage}/checkpoint-*")) for one in folders for stage in _FURTHER)

    def read_manifest(self) -> dict[str, Any]:
        """What the run reported, its output being where it is now; RunError when it has not ended, or is damaged."""
        if not self.manifest.is_file():
            if not self.recipe.is_file():
                raise RunError(f"{self.folder} holds no run: there is no recipe.yaml; give the folder of a prune run")
            raise RunError(f"{self.folder} holds no finished run: there is no manifest.json; go on with --resume")
        try:
            loaded = json.loads(self.manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._damaged(str(error)) from error
        missing = [name for name in _REPORTED if not isinstance(loaded, dict) or name not in loaded]
        if missing:
            raise self._damaged(f"it lacks {', '.join(missing)}")
        return {**loaded, "output": str(self.folder)}

    def read_recipe(self) -> Recipe:
        """What ran, its output being where it is now; RecipeError where there is no recipe."""
        recipe = Recipe.parse(moved_along(read_yaml(self.recipe), self.folder), str(self.recipe))
        return recipe.model_copy(update={"output": self.folder})

    def read_begun(self) -> dict[str, Any]:
        """What `begun` says, nothing where it is not there; RunError where it is damaged."""
        try:
            return dict(json.loads(self.begun.read_text(encoding="utf-8"))) if self.begun.is_file() else {}
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{self.begun} is damaged: {error}; remove it and resume: nothing tells then whether recipe and data "
                "are those of the beginning"
            ) from error

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder ready to be written to; with `overwrite` what a run left in it goes, and nothing else."""
        remove_drafts(self.folder)
        for path in self.made() if overwrite else ():
            remove(path)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text(self.manifest, json.dumps(manifest, indent=2, default=str) + "\n")

    def _is_named(self) -> bool:
        """Whether the recipe's output is this folder, as an absolute path: that is how a run writes it."""
        output = Path(str(self._tree().get("output")))
        return output.is_absolute() and output.resolve() == self.folder.resolve()

    def _demonstration(self) -> list[Path]:
        """Data and dense model, where they were made by the run and not brought by a user."""
        tree = self._tree()
        dense = str(Path(str(tree.get("output"))) / "dense")
        return [self.folder / "data", self.folder / "dense"] if tree and tree.get("model") in (None, dense) else []

    def _tree(self) -> dict[str, Any]:
        """The recipe as plain data; empty where it is none."""
        try:
            tree = read_yaml(self.recipe)
        except RecipeError:
            return {}
        return tree if isinstance(tree, dict) else {}

    def _damaged(self, how: str) -> RunError:
        return RunError(
            f"{self.manifest} is damaged: {how}; prune run {self.folder} --resume measures again and writes a new one"
        )


def default_output(recipe: Recipe) -> Path:
    """Where a run goes that names no folder."""
    return Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{recipe.strategy.name}"


def run_of(recipe: Path) -> Path | None:
    """The folder of the run that this file is the recipe of; None where it is anybody's recipe."""
    workspace = Workspace(recipe.parent)
    return workspace.folder if recipe.name == workspace.recipe.name and workspace.is_run() else None


@contextmanager
def open_workspace(recipe: Recipe, *, resume: bool, overwrite: bool) -> Iterator[Workspace]:
    """The folder of this recipe's run, as it is, for this process alone: nothing goes or changes before `begin`.

    RunError when it cannot be made or another process writes to it, when it holds a run already and neither `resume`
    nor `overwrite` is asked for, when it holds something else, or when the run to resume was made by another recipe.
    Of several processes of one run the main one calls it.
    """
    workspace = Workspace(recipe.output or default_output(recipe))
    with held(workspace.folder):
        if any(path.name != LOCK and not is_draft(path) for path in workspace.folder.iterdir()):
            _reopen(workspace, recipe, resume=resume, overwrite=overwrite)
        elif resume:
            raise RunError(f"{workspace.folder} holds no run to resume; run without --resume")
        yield workspace


def _reopen(workspace: Workspace, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    folder = workspace.folder
    if not workspace.is_run():
        raise RunError(f"{folder} is not empty and holds no run; choose another --output")
    if overwrite:
        _keep_sources(folder, recipe)
    elif resume:
        _same_recipe(workspace, recipe)
    else:
        raise RunError(
            f"{folder} already holds a run; go on with --resume, replace it with --overwrite, "
            "or choose another --output"
        )


def _keep_sources(folder: Path, recipe: Recipe) -> None:
    """RunError when overwriting the folder could delete what the recipe reads."""
    place = folder.resolve()
    for path in sources(recipe):
        if path.exists() and place in (path.resolve(), *path.resolve().parents):
            held_there = "is" if path.resolve() == place else f"holds {path},"
            raise RunError(f"{folder} {held_there} what this recipe reads: choose another --output")


def trained_by(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides how it trains, as plain data; not where things lie, which a user may move."""
    whole, places = absolute(recipe).model_dump(mode="json"), ["model"]
    if recipe.teacher not in TEACHERS:
        places.append("teacher")
    for section, named in PLACES.items():
        whole[section] = {name: value for name, value in whole[section].items() if name not in named}
    return {name: value for name, value in whole.items() if name not in (*_UNTRAINED, *places)}


def _same_recipe(workspace: Workspace, recipe: Recipe) -> None:
    """RunError where a run goes on with another recipe than it was begun with, whatever its recipe.yaml says now."""
    before = absolute(workspace.read_recipe()).model_dump(mode="json")
    now = absolute(recipe).model_dump(mode="json")
    begun = before | workspace.read_begun().get("recipe", {})
    begun |= {section: before[section] | begun[section] for section in PLACES}
    ignored = {*_UNTRAINED, *(("model", "task") if recipe.model is None else ())}  # the demonstration makes those
    ignored |= set() if workspace.has_trained_compact() else {"compactor"}
    compared = [name for name in now if name not in ignored]
    changed = differences(_only(begun, compared), _only(now, compared))
    if changed:
        raise RunError(
            f"{workspace.folder} was made by another recipe, {', '.join(changed)}: set that back and go on with "
            f"prune run {workspace.folder} --resume, or start anew with --overwrite"
        )
    late = differences(_only(before, _LATE), _only(now, _LATE))
    if late and workspace.manifest.is_file():
        logger.warning(
            "%s has ended, so this changes nothing: %s; use prune compact and prune bench, or --overwrite",
            *(workspace.folder, ", ".join(late)),
        )


def _only(tree: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: tree[name] for name in names}
