"""Where the things that a recipe names lie: the same from every folder, and after a run has moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune_core.fields import at_home
from prune_core.recipe import Recipe

EARLIER = ("rewind", "within")
"""Fields of a strategy that name an earlier run."""
PLACES = {"strategy": EARLIER, "task": ("dataset", "train_file", "validation_file", "further_validation")}
"""Fields of a recipe's sections that may name a place: a user may move what lies there."""


def absolute(recipe: Recipe) -> Recipe:
    """The same with the absolute paths of what it reads: it means the same from every folder. Hub names stay names."""
    task = {name: _absolute(getattr(recipe.task, name)) for name in ("dataset", "train_file", "validation_file")}
    if not recipe.task.dataset:  # else they are splits of it
        further = recipe.task.further_validation
        task["further_validation"] = {name: str(absolute_path(Path(file))) for name, file in further.items()}
    changes: dict[str, Any] = {name: _absolute(getattr(recipe, name)) for name in ("model", "teacher")}
    earlier = {name: str(absolute_path(path)) for name, path in _earlier(recipe).items()}
    changes["measure"] = recipe.measure.model_copy(update={"baseline": _absolute(recipe.measure.baseline)})
    changes |= {"task": recipe.task.model_copy(update=task), "strategy": recipe.strategy.model_copy(update=earlier)}
    return recipe.model_copy(update=changes)


def absolute_path(path: Path) -> Path:
    """The same place from every folder; a link at its end stays one, for its name may say what kind of file it is."""
    return path.parent.resolve() / path.name


def sources(recipe: Recipe) -> list[Path]:
    """Every path that a recipe may read from; a name of the hub is among them as a path where nothing is."""
    task = recipe.task
    models = [recipe.model, recipe.teacher, recipe.measure.baseline]
    named = [*models, task.dataset, task.train_file, task.validation_file]
    return [Path(path) for path in [*named, *task.further_validation.values(), *_earlier(recipe).values()] if path]


def moved_along(tree: Any, folder: Path) -> Any:
    """The recipe of the run in `folder`, as plain data, with the places of now where the run has moved.

    The demonstration holds its own data and dense model, and one density of several has the others beside it: they
    moved along.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("output"), str):
        return tree
    before = Path(tree["output"])
    here: dict[str, Any] = {name: _moved(tree[name], before, folder) for name in ("model", "teacher") if name in tree}
    for name in ("task", "strategy", "measure"):
        if isinstance(tree.get(name), dict):
            here[name] = {field: _moved(value, before, folder) for field, value in tree[name].items()}
    return {**tree, **here}


def _earlier(recipe: Recipe) -> dict[str, Path]:
    """The earlier runs that the recipe's strategy goes on from, by field."""
    named = recipe.strategy.fields()
    return {name: Path(at_home(str(named[name]))) for name in EARLIER if named.get(name)}


def _absolute(path: Any) -> Any:
    """A Path always, a text only where it is a folder that exists: else it is a name."""
    if isinstance(path, Path):
        return absolute_path(path)
    return str(absolute_path(Path(path))) if path and Path(path).is_dir() else path


def _moved(value: Any, before: Path, folder: Path) -> Any:
    """A path into the run's folder, or, as of one density among several, into a folder beside it."""
    if not isinstance(value, str) or Path(value).exists():
        return value
    places = [(before, folder), *([(before.parent, folder.parent)] if before.name == folder.name else [])]
    found = [now / Path(value).relative_to(old) for old, now in places if Path(value).is_relative_to(old)]
    return next((str(path) for path in found if path.exists()), value)
