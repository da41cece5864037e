"""The folder of a run: what lies where, and whether it may be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prune_core.errors import RunError
from prune_core.files import remove_drafts, write_text
from prune_core.recipe import Recipe, read_yaml


@dataclass(frozen=True)
class Workspace:
    """Paths of a run."""

    folder: Path

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
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def teacher(self) -> Path:
        """What the teacher puts out for each training example, while it is needed."""
        return self.folder / "teacher"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def read_manifest(self) -> dict[str, Any]:
        """What the run reported; RunError when it has not ended."""
        if not self.manifest.is_file():
            raise RunError(f"{self.folder} holds no finished run: there is no manifest.json; go on with --resume")
        loaded: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
        return loaded

    def read_recipe(self) -> Recipe:
        """What ran; RecipeError where there is no recipe."""
        return Recipe.parse(moved_along(read_yaml(self.recipe), self.folder), str(self.recipe))

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder ready to be written to; with `overwrite` everything in it goes."""
        if overwrite and self.folder.is_dir():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(self.folder)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text(self.manifest, json.dumps(manifest, indent=2, default=str) + "\n")


def default_output(recipe: Recipe) -> Path:
    """Where a run goes that names no folder."""
    return Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-{recipe.strategy.name}"


def open_workspace(recipe: Recipe, *, resume: bool, overwrite: bool) -> Workspace:
    """The folder of this recipe's run, as it is: nothing is written or removed before `begin`.

    RunError when it holds a run already and neither `resume` nor `overwrite` is asked for, when it holds something
    else, or when the run to resume was made by another recipe.
    """
    folder = recipe.output or default_output(recipe)
    workspace = Workspace(folder)
    if folder.is_file():
        raise RunError(f"{folder} is a file; choose another --output")
    if folder.is_dir() and any(folder.iterdir()):
        _reopen(workspace, recipe, resume=resume, overwrite=overwrite)
    elif resume:
        raise RunError(f"{folder} holds no run to resume; run without --resume")
    return workspace


def absolute(recipe: Recipe) -> Recipe:
    """The same with the absolute paths of what it reads: it means the same from every folder. Hub names stay names."""
    task = {name: _absolute(getattr(recipe.task, name)) for name in ("dataset", "train_file", "validation_file")}
    changes = {name: _absolute(getattr(recipe, name)) for name in ("model", "teacher")}
    return recipe.model_copy(update={**changes, "task": recipe.task.model_copy(update=task)})


def absolute_path(path: Path) -> Path:
    """The same place from every folder; a link at its end stays one, for its name may say what kind of file it is."""
    return path.parent.resolve() / path.name


def moved_along(tree: Any, folder: Path) -> Any:
    """The recipe in `folder`, as plain data, with the places of now where it is the recipe of a run that was moved.

    The demonstration holds its own data and dense model: they moved along.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("output"), str):
        return tree
    before = Path(tree["output"])
    here = {name: _moved(tree[name], before, folder) for name in ("model", "teacher") if name in tree}
    if isinstance(tree.get("task"), dict):
        here["task"] = {name: _moved(value, before, folder) for name, value in tree["task"].items()}
    moved = any(tree[name] != value for name, value in here.items())
    return {**tree, **here, "output": str(folder)} if moved else tree


def _reopen(workspace: Workspace, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    folder = workspace.folder
    if not workspace.recipe.is_file():
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
    """RunError when overwriting the folder would delete what the recipe reads."""
    sources = [recipe.model, recipe.teacher, recipe.task.train_file, recipe.task.validation_file]
    inside = [str(path) for path in sources if path and folder.resolve() in Path(path).resolve().parents]
    if inside:
        raise RunError(f"{folder} holds {inside[0]}, which this recipe reads: choose another --output")


def _same_recipe(workspace: Workspace, recipe: Recipe) -> None:
    before = absolute(workspace.read_recipe()).model_dump(mode="json")
    now = absolute(recipe).model_dump(mode="json")
    ignored = {"output", "device", "measure", "compactor", "plugins"}  # nothing that was trained depends on these
    if now["model"] is None:
        ignored |= {"model", "task"}  # the demonstration makes them by itself
    changed = [name for name in now if name not in ignored and now[name] != before[name]]
    if changed:
        raise RunError(
            f"{workspace.folder} was made by another recipe, {', '.join(changed)} differ: resume with "
            f"prune run {workspace.folder} --resume, or start anew with --overwrite"
        )


def _absolute(path: Any) -> Any:
    """A Path always, a text only where it is a folder that exists: else it is a name."""
    if isinstance(path, Path):
        return absolute_path(path)
    return str(absolute_path(Path(path))) if path and Path(path).is_dir() else path


def _moved(value: Any, before: Path, folder: Path) -> Any:
    if not isinstance(value, str) or not Path(value).is_relative_to(before) or Path(value).exists():
        return value
    now = folder / Path(value).relative_to(before)
    return str(now) if now.exists() else value
