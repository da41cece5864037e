"""prune tasks, and the fields of a task on the command line: their defaults, their order, and what is misspelt."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prune_core.plugins import load_plugins
from prune_core.recipe import Recipe
from prune_core.runs.configuring import validated

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
NAMED = [
    spec.name for spec in (offer.spec for offer in load_plugins().offers if offer.kind == "tasks") if spec.defaults
]


def test_the_list_has_every_task_with_its_summary(prune: Callable) -> None:
    listed = {row["name"]: row for row in json.loads(prune("tasks", "--json").out)}
    assert {"text-classification", "token-classification", "multiple-choice", *GLUE, "conll2003", "swag"} <= set(listed)
    assert listed["cola"]["distribution"] == "prune-core"
    printed = prune("tasks").out
    for row in listed.values():
        assert row["summary"]
        assert row["name"] in printed


def test_every_task_shows_its_fields(prune: Callable) -> None:
    for offer in load_plugins().offers:
        if offer.kind == "tasks":
            found = json.loads(prune("tasks", offer.spec.name, "--json").out)
            fields = {field["name"]: field for field in found["fields"]}
            assert {"dataset", "train_file", "columns", "metric"} <= set(fields), offer.spec.name
            assert all(field["description"] for field in fields.values()), offer.spec.name


def test_fields_and_where_a_named_task_starts_from(prune: Callable) -> None:
    result = prune("tasks", "mnli")
    assert result.code == 0
    for part in ("max_length", "task.dataset=nyu-mll/glue", "task.dataset_config=mnli", "training.epochs="):
        assert part in result.out
    found = json.loads(prune("tasks", "mnli", "--json").out)
    assert found["defaults"]["task"]["further_validation"] == {"mismatched": "validation_mismatched"}
    assert {field["name"]: field["default"] for field in found["fields"]}["max_length"] == 128
    plain = json.loads(prune("tasks", "token-classification", "--json").out)
    assert "defaults" not in plain
    assert "tag_names" in {field["name"] for field in plain["fields"]}


@pytest.mark.parametrize("arguments", [("tasks", "mnil"), ("run", "--task", "mnil", "--model", "m")])
def test_a_misspelt_task_gets_the_nearest(prune: Callable, arguments: tuple[str, ...]) -> None:
    result = prune(*arguments)
    assert result.code == 4
    assert len(result.errors) == 1
    assert "unknown task 'mnil': did you mean 'mnli'" in result.err
    assert result.out == ""


def test_a_misspelt_field_of_a_task_gets_the_nearest(prune: Callable) -> None:
    result = prune("run", "--task", "cola", "--model", "m", "--set", "task.max_lenght=3")
    assert result.code == 3
    assert len(result.errors) == 1
    assert "task.max_lenght: unknown field; did you mean 'max_length'" in result.err


def test_a_wrong_value_and_errors_elsewhere_are_all_said(prune: Callable) -> None:
    flags = ["--set", "task.max_length=0", "--set", "training.epoch=2", "--set", "task.tag_nams=[a]"]
    result = prune("run", "--task", "token-classification", "--model", "m", *flags)
    assert result.code == 3
    for part in ("training.epoch: unknown field", "task.max_length: ", "task.tag_nams: unknown field; did you mean"):
        assert part in result.err
    assert len(result.errors) == 3


def test_fields_of_another_task_are_unknown(prune: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    flags = ["--train-file", tmp_path / "t.csv", "--set", "task.first_label=1"]
    result = prune("run", "--task", "text-classification", "--model", "m", *flags)
    assert result.code == 3
    assert "task.first_label: unknown field" in result.err


def test_the_user_beats_the_task_and_the_task_beats_the_recipe(tmp_path: Path) -> None:
    spec = load_plugins().task("swag").defaults
    plain = Recipe.parse({"model": "m"})
    found = validated({"model": "m", "task": "swag"})
    assert found.training.batch_size == spec["training"]["batch_size"] != plain.training.batch_size
    assert found.training.warmup == plain.training.warmup
    assert (found.task.dataset, found.task.dataset_config) == ("allenai/swag", "regular")
    mine = {
        "task": {"name": "swag", "max_length": 64, "columns": {"context": "startphrase"}},
        "training": {"batch_size": 4},
    }
    beaten = validated({"model": "m", **mine})
    assert (beaten.training.batch_size, beaten.task.max_length) == (4, 64)
    assert beaten.training.learning_rate == spec["training"]["learning_rate"]
    assert beaten.task.columns == {**spec["task"]["columns"], "context": "startphrase"}


def test_a_recipe_file_beats_the_task_and_flags_beat_the_file(
    tmp_path: Path, prune: Callable, stand_in: Callable
) -> None:
    seen = []
    stand_in("prune_core.runs.run", check=lambda recipe, **_: seen.append(recipe) or {})
    file = tmp_path / "recipe.yaml"
    file.write_text("model: m\ntask: {name: cola, max_length: 77}\ntraining: {epochs: 2, seed: 5}\n")
    prune("run", file, "--dry-run", "--epochs", "9")
    (recipe,) = seen
    assert (recipe.task.max_length, recipe.task.metric, recipe.training.epochs, recipe.training.seed) == (
        77,
        "matthews",
        9,
        5,
    )
    assert recipe.training.learning_rate == load_plugins().task("cola").defaults["training"]["learning_rate"]


def test_files_of_ones_own_replace_the_data_of_a_named_task(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    found = validated({"model": "m", "task": {"name": "mnli", "train_file": str(tmp_path / "t.csv")}})
    assert (found.task.dataset, found.task.dataset_config, found.task.columns) == (None, None, {})
    assert (found.task.further_validation, found.task.validation_split) == ({}, "validation")
    assert found.training.learning_rate == load_plugins().task("mnli").defaults["training"]["learning_rate"]
    other = validated({"model": "m", "task": {"name": "stsb", "dataset": "me/mine"}})
    assert (other.task.dataset, other.task.dataset_config, other.task.columns) == ("me/mine", None, {})
    assert other.task.regression is True


@pytest.mark.parametrize("name", NAMED)
def test_what_a_named_task_resolves_to_says_the_same_again(name: str) -> None:
    recipe = validated({"model": "m", "task": name})
    assert validated(yaml.safe_load(recipe.dump())) == recipe


def test_the_defaults_of_a_task_are_never_written_to() -> None:
    before = json.dumps(load_plugins().task("mnli").defaults, sort_keys=True)
    validated({"model": "m", "task": {"name": "mnli", "columns": {"text": "x"}}, "training": {"epochs": 1}})
    assert json.dumps(load_plugins().task("mnli").defaults, sort_keys=True) == before


def test_a_further_file_that_is_not_there(prune: Callable, tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    flags = ["--train-file", tmp_path / "t.csv", "--set", f"task.further_validation.hard={tmp_path / 'no.csv'}"]
    result = prune("run", "--task", "text-classification", "--model", "m", *flags)
    assert result.code == 8
    assert f"task.further_validation.hard: there is no file {tmp_path / 'no.csv'}" in result.err
