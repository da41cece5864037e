"""prune run: which recipe comes of files, flags and settings, and what is printed of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from prune_cli.overlay import FLAGS, laid_over
from prune_cli.verbs import app
from prune_core.recipe import Recipe, read_yaml
from prune_core.runs.configuring import validated

MANIFEST = {
    "output": "runs/first",
    "summary": [
        {"figure": "accuracy", "dense": 0.9, "pruned": 0.89},
        {"figure": "density", "dense": 1.0, "pruned": 0.3012345},
        {"figure": "[bytes]", "dense": 90_000_000, "pruned": None},
    ],
    "density": {"asked": 0.3, "reached": 0.3012345},
}


@pytest.fixture
def checked() -> list[dict[str, Any]]:
    """The recipes that a dry run would check, and with what."""
    return []


@pytest.fixture
def ran(stand_in: Callable, sample: Path, checked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records the recipes that `prune run` would run, and with what."""
    calls: list[dict[str, Any]] = []

    def run(recipe: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any]:
        calls.append({"recipe": recipe, "resume": resume, "overwrite": overwrite})
        return MANIFEST

    def check(recipe: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any]:
        checked.append({"recipe": recipe, "resume": resume, "overwrite": overwrite})
        return {"steps": 1000, "data": {"train": 64}}

    stand_in("prune_core.runs.run", run=run, check=check)
    return calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "strategy: {name: sample, density: 0.2, steps: 7}\ntraining: {epochs: 2, seed: 4}\n"
        "model: old\ntask: {name: text-classification}\n"
    )
    return path


STEPS = "training: {max_steps: 8}"
HUB, FILES = {"dataset": "d", "dataset_config": "c", "metric": "f1"}, {"train_file": "a", "validation_file": "b"}


@pytest.mark.parametrize(
    ("held", "given", "found"),
    [
        (STEPS, {"epochs": 6}, {"training": {"epochs": 6}}),
        (STEPS, {"settings": ["training.epochs=6"]}, {"training": {"epochs": 6}}),
        (STEPS, {"epochs": 6, "max_steps": 5}, {"training": {"epochs": 6, "max_steps": 5}}),
        ("training: {epochs: 2}", {"max_steps": 5}, {"training": {"epochs": 2, "max_steps": 5}}),
        ("fill: {max_steps: 8}", {"settings": ["fill.epochs=2"]}, {"fill": {"epochs": 2}}),
        ("strategy: {density: 0.3}", {"settings": ["densities=[0.8]"]}, {"strategy": {}, "densities": [0.8]}),
        ("densities: [0.8]", {"density": 0.5}, {"strategy": {"density": 0.5}}),
        (
            "densities: [0.8]",
            {"settings": ["strategy.density=null"]},
            {"densities": [0.8], "strategy": {"density": None}},
        ),
        (f"task: {HUB}", {"train_file": "a"}, {"task": {"metric": "f1", "train_file": "a"}}),
        (f"task: {FILES}", {"dataset": "d"}, {"task": {"dataset": "d"}}),
    ],
    ids=str,
)
def test_a_flag_takes_the_place_of_what_the_file_has_instead(
    held: str, given: dict[str, Any], found: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(held)
    assert laid_over(tmp_path / "recipe.yaml", given)[0] == found


def test_a_recipe_alone(prune: Callable, ran: list, file: Path) -> None:
    assert prune("run", file).code == 0
    recipe = ran[0]["recipe"]
    assert recipe.output.parent == Path("runs")
    assert recipe.output.name.endswith("-sample")
    assert recipe.model_copy(update={"output": None}) == validated(read_yaml(file))
    assert not ran[0]["resume"]
    assert not ran[0]["overwrite"]


def test_settings_beat_flags_and_flags_beat_the_recipe(prune: Callable, ran: list, file: Path) -> None:
    arguments = ["--epochs", "3", "--density", "0.4", "--model", "new", "--set", "training.epochs=5"]
    prune("run", file, *arguments)
    recipe = ran[0]["recipe"]
    assert recipe.training.epochs == 5
    assert recipe.training.seed == 4
    assert recipe.model == "new"
    assert recipe.strategy.fields() == {"density": 0.4, "steps": 7}


def test_every_flag_reaches_its_field(prune: Callable, ran: list, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    (tmp_path / "dev.csv").write_text("text,label\n")
    given = {
        "strategy": "sample",
        "density": 0.3,
        "model": "m",
        "task": "text-classification",
        "train_file": tmp_path / "train.csv",
        "validation_file": tmp_path / "dev.csv",
        "teacher": "self",
        "epochs": 1.5,
        "max_steps": 10,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "seed": 3,
        "device": "cpu",
        "compactor": "dense",
        "align": 16,
        "output": tmp_path / "run",
    }
    assert given.keys() | {"dataset", "portable", "embedding_bits", "drop_layers", "keep_layers"} == FLAGS.keys()
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert prune("run", *flags, "--portable", "--set", "strategy.steps=1").code == 0
    recipe = ran[0]["recipe"]
    assert recipe.portable
    for flag, value in given.items():
        node: Any = recipe
        for part in FLAGS[flag].split("."):
            node = getattr(node, part)
        assert node == value, flag


def test_layers_are_read_from_their_flags(prune: Callable, ran: list, file: Path) -> None:
    assert prune("run", file, "--drop-layers", "layer.1, layer.4").code == 0
    assert prune("run", file, "--keep-layers", "encoder=6,decoder=3").code == 0
    assert ran[0]["recipe"].depth.drop == ("layer.1", "layer.4")
    assert ran[1]["recipe"].depth.keep == {"encoder": 6, "decoder": 3}
    assert prune("run", file, "--keep-layers", "few").code != 0


def test_uniform_is_short_for_a_compactor(prune: Callable, ran: list, file: Path) -> None:
    assert prune("run", file, "--uniform").code == 0
    assert ran[0]["recipe"].compactor == "uniform"
    assert prune("run", file, "--uniform", "--compactor", "dense").code != 0


def test_every_flag_of_the_table_is_a_flag_of_the_verb() -> None:
    parameters = {p.name for p in typer.main.get_command(app).commands["run"].params}
    assert FLAGS.keys() <= parameters


def test_columns_and_datasets(prune: Callable, ran: list) -> None:
    flags = ["--dataset", "nyu-mll/glue", "--column", "text=sentence", "--column", "label=a=b"]
    settings = ["--set", "strategy.steps=1", "--set", "task.dataset_config=sst2"]
    prune("run", "--strategy", "sample", "--model", "m", "--task", "text-classification", *flags, *settings)
    task = ran[0]["recipe"].task
    assert (task.dataset, task.dataset_config) == ("nyu-mll/glue", "sst2")
    assert task.columns == {"text": "sentence", "label": "a=b"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("strategy.x=3", 3),
        ("strategy.x=0.5", 0.5),
        ("strategy.x=true", True),
        ("strategy.x=words of it", "words of it"),
        ("strategy.x=[layer.0.*, layer.1.ffn]", ["layer.0.*", "layer.1.ffn"]),
        ("strategy.x=a=b", "a=b"),
        ("strategy.x=", None),
        ("strategy.x.y.z={a: 1}", {"y": {"z": {"a": 1}}}),
    ],
)
def test_settings_are_yaml(setting: str, value: object) -> None:
    from prune_cli.overlay import laid_over

    tree, source = laid_over(None, {"settings": [setting]})
    assert tree == {"strategy": {"x": value}}
    assert source == "flags"


@pytest.mark.parametrize("given", ["strategy: {name: hybrid, density: 0.3}", "strategy: hybrid", "epochs: 3"])
def test_a_name_is_set_and_the_other_fields_of_its_section_stay(given: str, tmp_path: Path) -> None:
    from prune_cli.overlay import laid_over

    file = tmp_path / "recipe.yaml"
    file.write_text(given)
    settings = ["strategy=block", "task=sst2", "task.columns={text: a}", "task=mrpc"]
    tree, _ = laid_over(file, {"density": 0.4, "settings": settings})
    assert tree["strategy"] == {"name": "block", "density": 0.4}
    assert tree["task"] == {"name": "mrpc", "columns": {"text": "a"}}


def test_a_task_by_its_name_alone_can_be_overlaid(tmp_path: Path) -> None:
    from prune_cli.overlay import laid_over

    (tmp_path / "recipe.yaml").write_text("task: sst2\n")
    tree, _ = laid_over(tmp_path / "recipe.yaml", {"settings": ["task.max_length=7"]})
    assert tree["task"] == {"name": "sst2", "max_length": 7}


def test_a_strategy_by_its_name_alone_can_be_overlaid(tmp_path: Path) -> None:
    from prune_cli.overlay import laid_over

    file = tmp_path / "recipe.yaml"
    file.write_text("strategy: block\ntraining:\n")
    tree, source = laid_over(file, {"density": 0.3, "epochs": 2.0})
    assert tree == {"strategy": {"name": "block", "density": 0.3}, "training": {"epochs": 2.0}}
    assert source == f"{file} with flags"
    assert laid_over(file, {})[1] == str(file)


def test_resume_takes_the_recipe_of_the_run(prune: Callable, ran: list, file: Path) -> None:
    prune("run", file.parent, "--resume")
    prune("run", "--output", file.parent, "--resume")
    prune("run", file, "--resume", "--output", "elsewhere")
    assert [call["resume"] for call in ran] == [True] * 3
    assert [call["recipe"].strategy.fields()["steps"] for call in ran] == [7] * 3
    assert [call["recipe"].output for call in ran] == [file.parent, file.parent, Path("elsewhere")]


def test_resume_of_a_recipe_that_names_no_run(prune: Callable, ran: list, tmp_path: Path) -> None:
    """A run without a folder of its own gets one named by the time: there is none to go on with."""
    (tmp_path / "mine.yaml").write_text("strategy: {name: sample, steps: 1}\n")
    result = prune("run", tmp_path / "mine.yaml", "--resume")
    assert "--resume needs the run, as in prune run runs/first --resume" in result.errors[0]
    assert ran == []


def test_resume_of_a_run_that_is_not_there_is_the_cores_to_refuse(prune: Callable, ran: list, tmp_path: Path) -> None:
    prune("run", "--strategy", "sample", "--set", "strategy.steps=1", "--output", tmp_path / "new", "--resume")
    assert ran[0]["recipe"].output == tmp_path / "new"


def test_a_run_can_be_repeated_elsewhere(prune: Callable, ran: list, file: Path) -> None:
    prune("run", file.parent, "--output", "again", "--overwrite")
    assert ran[0]["recipe"].output == Path("again")
    assert ran[0]["overwrite"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run, with the recipe that a run leaves: it names its folder as output."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    recipe = {"strategy": {"name": "sample", "steps": 7}, "model": "m", "task": {"name": "text-classification"}}
    (folder / "recipe.yaml").write_text(Recipe.parse({**recipe, "output": str(folder)}).dump())
    return folder


@pytest.mark.parametrize("spelling", [".", "recipe.yaml"])
def test_a_run_is_repeated_in_a_fresh_folder(spelling: str, prune: Callable, ran: list, run_folder: Path) -> None:
    assert prune("run", run_folder / spelling).code == 0
    recipe = ran[0]["recipe"]
    assert recipe.output.parent == Path("runs")
    assert recipe.output.name.endswith("-sample")
    assert recipe.strategy.fields() == {"steps": 7}


@pytest.mark.parametrize("spelling", [".", "recipe.yaml"])
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_run_goes_on_or_is_replaced_where_it_is(
    flag: str, spelling: str, prune: Callable, ran: list, run_folder: Path
) -> None:
    assert prune("run", run_folder / spelling, flag).code == 0
    assert ran[0]["recipe"].output == run_folder


@pytest.mark.parametrize("flags", [("--output", "{run}"), ("--set", "output={run}")])
def test_a_folder_that_is_asked_for_is_the_cores_to_refuse(
    flags: tuple[str, str], prune: Callable, ran: list, run_folder: Path
) -> None:
    prune("run", run_folder, *(flag.format(run=run_folder) for flag in flags))
    assert ran[0]["recipe"].output == run_folder


def test_a_recipe_that_lies_elsewhere_keeps_its_output(prune: Callable, ran: list, run_folder: Path) -> None:
    copied = run_folder.parent / "mine.yaml"
    copied.write_text((run_folder / "recipe.yaml").read_text())
    prune("run", copied)
    assert ran[0]["recipe"].output == run_folder


def test_a_run_that_was_moved_finds_what_it_holds(prune: Callable, ran: list, run_folder: Path) -> None:
    (run_folder / "dense").mkdir()
    (run_folder / "data.csv").touch()
    recipe = Recipe.load(run_folder / "recipe.yaml")
    task = recipe.task.model_copy(update={"train_file": run_folder / "data.csv"})
    changes = {"model": str(run_folder / "dense"), "task": task}
    (run_folder / "recipe.yaml").write_text(recipe.model_copy(update=changes).dump())
    moved = run_folder.rename(run_folder.with_name("moved"))
    for flags in ((), ("--resume",)):
        assert prune("run", moved, *flags).code == 0
    assert [call["recipe"].model for call in ran] == [str(moved / "dense")] * 2
    assert [call["recipe"].task.train_file for call in ran] == [moved / "data.csv"] * 2
    assert ran[0]["recipe"].output.parent == Path("runs")
    assert ran[1]["recipe"].output == moved


def test_the_summary_is_one_table(prune: Callable, ran: list, file: Path) -> None:
    result = prune("run", file)
    assert result.err == ""
    for part in ("runs/first", "accuracy", "0.3012", "[bytes]", "90,000,000", "runs/first/model"):
        assert part in result.out


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({}, "runs/first/model: import prune_core, then from_pretrained as usual."),
        ({"needs_prune_core": False}, "runs/first/model: from_pretrained as usual."),
        ({"needs_prune_core": False, "portable": True}, "model: from_pretrained with trust_remote_code=True."),
        ({"members": [], "needs_prune_core": False}, "models lie in runs/first: from_pretrained as usual."),
    ],
    ids=str,
)
def test_the_last_line_says_how_the_model_loads(
    told: dict[str, Any], line: str, prune: Callable, ran: list, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setitem(MANIFEST, name, value)
    assert prune("run", file).out.splitlines()[-1].endswith(line)


def test_the_manifest_as_json(prune: Callable, ran: list, file: Path) -> None:
    assert json.loads(prune("run", file, "--json").out) == MANIFEST


def test_freed_memory_is_kept_before_anything_runs(
    prune: Callable, ran: list, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[int] = []
    monkeypatch.setattr("prune_core.malloc.keep_freed_memory", lambda: kept.append(len(ran)))
    prune("run", file, "--output", tmp_path / "run")
    assert (kept, len(ran)) == ([0], 1)


def test_a_dry_run_prints_a_recipe_that_can_be_run(prune: Callable, ran: list, file: Path, tmp_path: Path) -> None:
    result = prune("run", file, "--dry-run", "--epochs", "9")
    assert result.code == 0
    assert not ran
    assert "#   data.train: 64" in result.out
    printed = tmp_path / "printed.yaml"
    printed.write_text(result.out)
    assert Recipe.load(printed).training.epochs == 9


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_dry_run_checks_what_would_be_done(flag: str, prune: Callable, ran: list, checked: list, file: Path) -> None:
    assert prune("run", file, "--dry-run", f"--{flag}", "--output", "x").code == 0
    assert not ran
    assert (checked[0]["recipe"].output, checked[0][flag]) == (Path("x"), True)


def test_a_dry_run_prints_the_demonstrations_own_training(prune: Callable, ran: list) -> None:
    result = prune("run", "--strategy", "sample", "--set", "strategy.steps=1", "--dry-run", "--json")
    assert json.loads(result.out)["recipe"]["training"]["epochs"] == 12


def test_a_dry_run_as_json(prune: Callable, ran: list, file: Path) -> None:
    found = json.loads(prune("run", file, "--dry-run", "--json").out)
    assert found["plan"]["steps"] == 1000
    assert validated(found["recipe"]) == validated(read_yaml(file))
