"""What can be checked of a recipe before anything heavy is imported: its fields, the strategy's, names and files."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prune_core.errors import DataError, PluginError, PruneError, RecipeError
from prune_core.plugins import Plugins, import_target, load_plugins
from prune_core.recipe import Recipe, StrategySection, TaskSection, explain
from prune_core.runs.places import absolute
from prune_core.strategy import StrategyConfig
from prune_core.task import TaskConfig

Config = TypeVar("Config", StrategyConfig, TaskConfig)

DEMO_MEASURE = {"batch_size": 64}
_DATA = ("dataset", "dataset_config", "train_split", "validation_split", "further_validation", "columns")
"""Fields of a task that say where its data come from."""
DEMO_TRAINING = {"epochs": 12.0, "batch_size": 64, "learning_rate": 5e-4, "save_steps": 200}


def validated(data: Any, source: str = "recipe") -> Recipe:
    """The recipe in plain data, its strategy's own fields checked as well.

    Raises RecipeError with all wrong fields at once, PluginError for a strategy, task or compactor that is not
    installed, DataError for a data file that is not there.
    """
    try:
        recipe = with_defaults(data, source)
    except RecipeError as error:
        raise RecipeError("\n".join([str(error), *_own_problems(data, source)])) from error
    plugins = load_plugins(recipe.plugins.disabled)
    strategy_config(recipe, plugins, source)
    if recipe.compactor != "auto":
        plugins.get("compactors", recipe.compactor)
    _check_files(recipe.task)
    if recipe.task.name is not None:
        recipe = recipe.model_copy(update={"task": task_config(recipe.task, plugins, source)})
    check_whole(recipe, source)
    return recipe


def plugins_of(recipe: Recipe) -> Plugins:
    """The plugins that a recipe may use, and the layout of its model where it describes one."""
    plugins, section = load_plugins(recipe.plugins.disabled), recipe.architecture
    return replace(plugins, described=section.layout("described")) if section.stacks else plugins


def with_defaults(data: Any, source: str = "recipe") -> Recipe:
    """The recipe in plain data, laid over the defaults of its task, as `TaskSpec` states them."""
    recipe = Recipe.parse(data, source)
    if recipe.task.name is None:
        return recipe
    spec = load_plugins(recipe.plugins.disabled).task(recipe.task.name)
    defaults = copy.deepcopy(dict(spec.defaults))
    if recipe.task.dataset or recipe.task.train_file or recipe.task.validation_file:
        task = defaults.get("task", {})
        defaults["task"] = {name: value for name, value in task.items() if name not in _DATA}
    return Recipe.parse(_laid_over(defaults, data), source)


def check_whole(recipe: Recipe, source: str = "recipe") -> None:
    """RecipeError where model or task is missing, unless nothing at all is said of them: that is the demonstration."""
    asked = _told_of(recipe.task)
    needed = {"model (--model)": recipe.model, "task.name (--task)": recipe.task.name}
    missing = [name for name, value in needed.items() if value is None]
    if missing and (recipe.model is not None or asked):
        given = ["model"] if recipe.model is not None else asked
        raise RecipeError(
            f"{source}: {' and '.join(missing)} missing beside {', '.join(given)}; give model and task, "
            "or nothing of either for the demonstration on digits"
        )


def task_asked(recipe: Recipe, source: str = "recipe") -> TaskSection | None:
    """The recipe's task, checked, where one is optional: None where nothing is said of any.

    RecipeError where data come without a task.
    """
    if recipe.task.name is not None:
        return task_config(recipe.task, load_plugins(recipe.plugins.disabled), source)
    if asked := _told_of(recipe.task):
        raise RecipeError(f"{source}: task.name (--task) missing beside {', '.join(asked)}; give it, or leave them out")
    return None


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with everything in it that the run will do, so that it repeats it from any folder.

    RecipeError where it is no whole recipe. The demonstration's model and task are made by the run.
    """
    check_whole(recipe)
    if recipe.model is None:
        given = recipe.model_dump(exclude_unset=True)
        training = recipe.training.model_copy(update=DEMO_TRAINING | given.get("training", {}))
        measure = recipe.measure.model_copy(update=DEMO_MEASURE | given.get("measure", {}))
        recipe = recipe.model_copy(update={"training": training, "measure": measure})
    return absolute(recipe)


def strategy_config(recipe: Recipe, plugins: Plugins, source: str = "recipe") -> StrategyConfig:
    """The configuration of the recipe's strategy; PluginError when it is not installed, RecipeError for its fields."""
    return _config(recipe.strategy, plugins, source)


def strategy_config_class(name: str, plugins: Plugins) -> type[StrategyConfig]:
    """The class of a strategy's configuration; PluginError when it is not installed or broken."""
    return _class_at(plugins.strategy(name).config, StrategyConfig, f"strategy {name!r}")


def task_config(section: TaskSection, plugins: Plugins, source: str = "recipe") -> TaskConfig:
    """The task's own configuration of a section that names one.

    PluginError for a task that is not installed, RecipeError for its fields, DataError for a file that is not there.
    """
    assert section.name is not None
    config_class = task_config_class(section.name, plugins)
    try:
        config = config_class.model_validate(section.model_dump())
    except ValidationError as error:
        raise RecipeError(explain(error, config_class, source, prefix="task")) from error
    _check_files(config)
    return config


def task_config_class(name: str, plugins: Plugins) -> type[TaskConfig]:
    """The class of a task's configuration; PluginError when it is not installed or broken."""
    return _class_at(plugins.task(name).config, TaskConfig, f"task {name!r}")


def _told_of(section: TaskSection) -> list[str]:
    """The fields of a task that are not as by default."""
    known = type(section).model_fields
    return sorted(f"task.{name}" for name, value in section if name not in known or value != known[name].default)


def _class_at(target: str, base: type[Config], owner: str) -> type[Config]:
    found = import_target(target)
    if isinstance(found, type) and issubclass(found, base):
        return found
    raise PluginError(f"{target}, the configuration of the {owner}, is no {base.__name__}")


def _check_files(section: TaskSection) -> None:
    files = {"train_file": section.train_file, "validation_file": section.validation_file}
    if not section.dataset:  # else they are splits of it
        files |= {f"further_validation.{name}": Path(file) for name, file in section.further_validation.items()}
    for field, path in files.items():
        if path is not None and not path.exists():
            raise DataError(f"task.{field}: there is no file {path}")


def _laid_over(under: Mapping[str, Any], over: Any) -> Any:
    """`over` where it says something, section by section, else `under`."""
    if not isinstance(over, Mapping):
        return {"name": over, **under} if isinstance(over, str) else over
    merged = dict(under)
    for key, value in over.items():
        merged[key] = _laid_over(merged[key], value) if isinstance(merged.get(key), Mapping) else value
    return merged


def _config(section: StrategySection, plugins: Plugins, source: str) -> StrategyConfig:
    config_class = strategy_config_class(section.name, plugins)
    try:
        return config_class.model_validate(section.fields())
    except ValidationError as error:
        raise RecipeError(explain(error, config_class, source, prefix="strategy")) from error


def _own_problems(data: Any, source: str) -> list[str]:
    """What is wrong with the strategy's and the task's own fields of a recipe that is wrong elsewhere too."""
    checks: list[tuple[str, type[BaseModel], Callable[[Any], object]]] = [
        ("strategy", StrategySection, lambda section: _config(section, load_plugins(), source)),
        ("task", TaskSection, lambda section: section.name and task_config(section, load_plugins(), source)),
    ]
    found = []
    for key, section_class, check in checks:
        section = data.get(key) if isinstance(data, dict) else None
        section = {"name": section} if isinstance(section, str) else section
        try:
            check(section_class.model_validate(section or {}))
        except ValidationError:
            continue  # a wrong section is among the recipe's own errors
        except PruneError as error:
            found.append(str(error))
    return found
