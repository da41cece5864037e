"""Flags laid over a recipe: both are the same tree, so a flag is a path into it. File < flags < --set."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

FLAGS = {
    "strategy": "strategy.name",
    "density": "strategy.density",
    "model": "model",
    "task": "task.name",
    "dataset": "task.dataset",
    "train_file": "task.train_file",
    "validation_file": "task.validation_file",
    "teacher": "teacher",
    "epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "seed": "training.seed",
    "device": "device",
    "compactor": "compactor",
    "drop_layers": "depth.drop",
    "keep_layers": "depth.keep",
    "align": "align",
    "portable": "portable",
    "embedding_bits": "embedding_bits",
    "output": "output",
}
"""Parameter of a verb -> path of its field in the recipe."""

_FILES = ("task.train_file", "task.validation_file")
INSTEAD = {
    **{f"{section}.epochs": (f"{section}.max_steps",) for section in ("training", "fill", "quantize")},
    "strategy.density": ("densities",),
    "densities": ("strategy.density",),
    "task.dataset": _FILES,
    **dict.fromkeys(_FILES, ("task.dataset", "task.dataset_config")),
}
"""Field -> fields of the file that it takes the place of: they would count instead, or be refused beside it."""

Setting = tuple[str, Any]


def laid_over(
    file: Path | None, parameters: Mapping[str, Any], *, of_a_run: bool = False
) -> tuple[dict[str, Any], str]:
    """The tree of a recipe with a verb's parameters laid over it, and where it comes from, in words.

    `of_a_run`: the output that the recipe names is forgotten, for a run may be repeated, or be the copy of another one.
    Raises RecipeError for an unreadable recipe, typer.BadParameter for a malformed --column or --set.
    """
    tree = _read(file) if file else {}
    if of_a_run:
        tree.pop("output", None)
    settings = [
        *((path, parameters[flag]) for flag, path in FLAGS.items() if parameters.get(flag) is not None),
        *_columns(parameters.get("column") or ()),
        *_settings(parameters.get("settings") or ()),
    ]
    for other in (other for path, value in settings if value is not None for other in INSTEAD.get(path, ())):
        _drop(tree, other)
    for path, value in settings:
        _put(tree, path, value)
    if file is None:
        return tree, "flags"
    return tree, f"{file} with flags" if settings else str(file)


def _columns(values: Sequence[str]) -> Iterator[Setting]:
    for value in values:
        role, equals, name = value.partition("=")
        if not (role and equals and name):
            raise typer.BadParameter(f"--column {value}: role=name was expected, as in --column text=sentence")
        yield f"task.columns.{role}", name


def _settings(values: Sequence[str]) -> Iterator[Setting]:
    import yaml

    for value in values:
        path, equals, text = value.partition("=")
        if not equals or not all(path.split(".")):
            raise typer.BadParameter(f"--set {value}: path=value was expected, as in --set training.save_steps=100")
        try:
            yield path, yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"--set {value}: {text!r} is not YAML; put it in quotes") from error


def _read(file: Path) -> dict[str, Any]:
    from prune_core.errors import RecipeError
    from prune_core.recipe import named, read_yaml
    from prune_core.runs.places import moved_along

    tree = moved_along(read_yaml(file), file.parent)
    if not isinstance(tree, dict):
        raise RecipeError(f"{file}: a recipe is a mapping of fields, found {type(tree).__name__}")
    return named(tree)


def _drop(tree: dict[str, Any], path: str) -> None:
    *sections, leaf = path.split(".")
    for section in sections:
        tree = tree.get(section) or {}
    if isinstance(tree, dict):
        tree.pop(leaf, None)


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    from prune_core.errors import RecipeError
    from prune_core.recipe import NAMED

    if path in NAMED and isinstance(value, str):
        path += ".name"  # of a section whose other fields stay
    *sections, leaf = path.split(".")
    for depth, section in enumerate(sections, 1):
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise RecipeError(f"{path}: {'.'.join(sections[:depth])} is {tree!r}, which has no field {leaf!r}")
    tree[leaf] = value
