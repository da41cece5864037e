"""What can be checked of a recipe before anything heavy is imported: its fields, the strategy's, names and files."""

from typing import Any

from pydantic import ValidationError

from prune_core.errors import DataError, PluginError, PruneError, RecipeError
from prune_core.plugins import Plugins, import_target, load_plugins
from prune_core.recipe import Recipe, StrategySection, TaskSection, explain
from prune_core.strategy import StrategyConfig
from prune_core.workspace import absolute

DEMO_MEASURE = {"batch_size": 64}
DEMO_TRAINING = {"epochs": 12.0, "batch_size": 64, "learning_rate": 5e-4, "save_steps": 200}


def validated(data: Any, source: str = "recipe") -> Recipe:
    """The recipe in plain data, its strategy's own fields checked as well.

    Raises RecipeError with all wrong fields at once, PluginError for a strategy, task or compactor that is not
    installed, DataError for a data file that is not there.
    """
    try:
        recipe = Recipe.parse(data, source)
    except RecipeError as error:
        raise RecipeError("\n".join([str(error), *_strategy_problems(data, source)])) from error
    plugins = load_plugins(recipe.plugins.disabled)
    strategy_config(recipe, plugins, source)
    if recipe.compactor != "auto":
        plugins.get("compactors", recipe.compactor)
    check_task(recipe, plugins)
    check_whole(recipe, source)
    return recipe


def check_whole(recipe: Recipe, source: str = "recipe") -> None:
    """RecipeError where model or task is missing, unless nothing at all is said of them: that is the demonstration."""
    asked = sorted(name for name, value in recipe.task if value != TaskSection.model_fields[name].default)
    needed = {"model (--model)": recipe.model, "task.name (--task)": recipe.task.name}
    missing = [name for name, value in needed.items() if value is None]
    if missing and (recipe.model is not None or asked):
        given = ["model"] if recipe.model is not None else [f"task.{name}" for name in asked]
        raise RecipeError(
            f"{source}: {' and '.join(missing)} missing beside {', '.join(given)}; give model and task, "
            "or nothing of either for the demonstration on digits"
        )


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
    target = plugins.strategy(name).config
    found = import_target(target)
    if isinstance(found, type) and issubclass(found, StrategyConfig):
        return found
    raise PluginError(f"{target}, the configuration of the strategy {name!r}, is no StrategyConfig")


def check_task(recipe: Recipe, plugins: Plugins) -> None:
    """PluginError for a task that is not installed, DataError for a data file that is not there."""
    if recipe.task.name is not None:
        plugins.get("tasks", recipe.task.name)
    for field in ("train_file", "validation_file"):
        path = getattr(recipe.task, field)
        if path is not None and not path.is_file():
            raise DataError(f"task.{field}: there is no file {path}")


def _config(section: StrategySection, plugins: Plugins, source: str) -> StrategyConfig:
    config_class = strategy_config_class(section.name, plugins)
    try:
        return config_class.model_validate(section.fields())
    except ValidationError as error:
        raise RecipeError(explain(error, config_class, source, prefix="strategy")) from error


def _strategy_problems(data: Any, source: str) -> list[str]:
    """What is wrong with the strategy's fields of a recipe that is wrong elsewhere too."""
    section = data.get("strategy") if isinstance(data, dict) else None
    section = {"name": section} if isinstance(section, str) else section
    try:
        _config(StrategySection.model_validate(section or {}), load_plugins(), source)
    except ValidationError:
        return []  # a wrong section is among the recipe's own errors
    except PruneError as error:
        return [str(error)]
    return []
