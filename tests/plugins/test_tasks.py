"""A task of somebody else, with a configuration and defaults of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prune_core.errors import PluginError, RecipeError
from prune_core.runs.configuring import task_config_class, validated

PLUGIN = """
from prune_core.hookspecs import TaskSpec

@hookimpl
def prune_tasks():
    defaults = {"task": {"dataset": "me/poems", "metre": "iamb"}, "training": {"epochs": 7.0}}
    return [
        TaskSpec("verses", "which verse follows", "verses_task:Verses", "verses_config:VersesConfig", defaults),
        TaskSpec("bare", "no fields of its own", "verses_task:Verses"),
        TaskSpec("broken", "its configuration is none", "verses_task:Verses", "verses_config:Other"),
        TaskSpec("gone", "its configuration is not there", "verses_task:Verses", "no_such_module:Config"),
    ]
"""
CONFIG = """
from typing import Literal
from pydantic import Field
from prune_core.task import TaskConfig

class VersesConfig(TaskConfig):
    metre: Literal["iamb", "trochee"] = Field("trochee", description="Metre.")
    feet: int = Field(5, ge=1, description="Feet a verse.")

class Other:
    pass
"""


@pytest.fixture(autouse=True)
def verses(add: Callable, load: Callable, site: Path) -> None:
    (site / "verses_config.py").write_text(CONFIG)
    add("prune-verses", PLUGIN)
    load()


def test_its_defaults_and_fields_are_those_of_a_recipe() -> None:
    recipe = validated({"model": "m", "task": "verses"})
    assert (recipe.task.dataset, recipe.task.metre, recipe.task.feet) == ("me/poems", "iamb", 5)
    assert recipe.training.epochs == 7
    assert validated({"model": "m", "task": {"name": "verses", "metre": "trochee"}}).task.metre == "trochee"
    assert "metre: iamb" in recipe.dump()


def test_its_fields_are_checked_and_misspelt_ones_get_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"task.feat: unknown field; did you mean 'feet'"):
        validated({"model": "m", "task": {"name": "verses", "feat": 4}})
    with pytest.raises(RecipeError, match=r"task.feet: .*found 0"):
        validated({"model": "m", "task": {"name": "verses", "feet": 0}})


def test_a_task_without_a_configuration_has_the_common_fields_alone() -> None:
    assert validated({"model": "m", "task": {"name": "bare", "dataset": "a/b"}}).task.dataset == "a/b"
    with pytest.raises(RecipeError, match=r"task.feet: unknown field"):
        validated({"model": "m", "task": {"name": "bare", "feet": 4}})


def test_a_configuration_that_is_none_is_named(load: Callable) -> None:
    with pytest.raises(
        PluginError, match=r"verses_config:Other, the configuration of the task 'broken', is no TaskConfig"
    ):
        task_config_class("broken", load())
    with pytest.raises(PluginError, match="no_such_module"):
        task_config_class("gone", load())
