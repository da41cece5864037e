"""--resume: of a run that had ended, of one whose results were lost, and on data that are others now."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from prune_core.errors import RunError
from prune_core.runs.resuming import digest
from prune_core.runs.run import run
from prune_core.runs.verifying import verify_run
from prune_core.runs.workspace import Workspace
from prune_core.training.checkpoints import last


@pytest.fixture
def own(finished, tmp_path):
    """A copy of a finished run, and its recipe there."""
    return Path(shutil.copytree(finished()[0], tmp_path / "copy"))


def test_a_copy_reports_its_own_place(own, recipe):
    manifest = run(recipe(own), resume=True)
    assert manifest["output"] == str(own)


def test_what_is_no_run_cannot_be_verified(tmp_path, own):
    for folder in (tmp_path / "none", own / "model"):
        with pytest.raises(RunError, match=r"holds no run: there is no recipe\.yaml; give the folder of a prune run"):
            verify_run(folder)
    (own / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"holds no finished run: there is no manifest\.json; go on with --resume"):
        verify_run(own)


@pytest.mark.parametrize("text", ['{"a', "{}", "[1]", ""])
def test_a_damaged_manifest_is_made_again(text, own, recipe, finished, same_result, caplog):
    (own / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json is damaged: .*--resume") as caught:
        verify_run(own)
    assert "\n" not in str(caught.value)
    if text != "{}":
        return
    with caplog.at_level(logging.WARNING, logger="prune_core"):
        manifest = run(recipe(own), resume=True)
    assert "is damaged" in caplog.text
    assert json.loads((own / "manifest.json").read_text())["metrics"] == manifest["metrics"]
    assert manifest["metrics"] == finished()[1]["metrics"]
    assert same_result(own, finished()[0])


def test_a_model_that_is_gone_is_made_again(own, recipe, finished, same_result, caplog):
    shutil.rmtree(own / "model")
    with caplog.at_level(logging.WARNING, logger="prune_core"):
        run(recipe(own), resume=True)
    assert f"{own / 'model'} is gone" in caplog.text
    assert same_result(own, finished()[0])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_that_is_another_one_is_not_replaced(name, own, recipe):
    (own / "model" / name).unlink()
    with pytest.raises(RunError, match=rf"is not as the run wrote it, {name} differ: move it away"):
        run(recipe(own), resume=True)


@pytest.mark.parametrize("which", ["train", "validation"])
@pytest.mark.parametrize("change", ["halved", "edited"])
def test_other_data_do_not_resume(which, change, own, recipe, inputs, tmp_path):
    (own / "manifest.json").unlink()
    task = dict(inputs["bert"]["task"])
    lines = Path(task[f"{which}_file"]).read_text().splitlines(keepends=True)
    halved, edited = lines[: len(lines) // 2 + 1], [*lines[:-1], f"film {lines[-1]}"]
    file = tmp_path / f"bert-{which}.csv"
    file.write_text("".join(halved if change == "halved" else edited))
    task[f"{which}_file"] = str(file)
    mine = recipe(own, task=task)
    (own / "recipe.yaml").write_text(mine.dump())  # so that the data alone are other ones
    kind = {"train": "training", "validation": "validation"}[which]
    with pytest.raises(RunError, match=rf"the {kind} data are not those that .* was begun with \(\d+ examples then"):
        run(mine, resume=True)


def test_the_digest_is_that_of_the_rows():
    from datasets import Dataset

    rows = {"input_ids": [[1, 2], [3], [], [4, 5, 6]], "labels": [0, 1, None, 1], "text": ["a", "", None, "é"]}
    whole = Dataset.from_dict(rows)
    assert digest(whole) == digest(Dataset.from_dict(rows))
    assert digest(whole.select([3, 0, 1, 2]).select([1, 2, 3, 0])) == digest(whole)
    assert digest(whole.select(range(1, 3))) == digest(Dataset.from_dict({k: v[1:3] for k, v in rows.items()}))
    others = [whole.select([1, 0, 2, 3]), whole.select(range(3)), whole.rename_column("text", "words")]
    others.append(Dataset.from_dict({**rows, "input_ids": [[1], [2, 3], [], [4, 5, 6]]}))
    assert len({digest(other)["sha256"] for other in [whole, *others]}) == 5


class TestAnotherRecipe:
    """What a run was begun with stays so, by whichever way another recipe is asked for."""

    def test_an_edited_recipe_file(self, own):
        text = (own / "recipe.yaml").read_text()
        assert "max_steps: 8\n" in text
        (own / "recipe.yaml").write_text(text.replace("max_steps: 8\n", "max_steps: 9\n"))
        edited = Workspace(own).read_recipe()
        with pytest.raises(RunError, match=r"another recipe, training\.max_steps \(8 before, 9 now\): set that back"):
            run(edited, resume=True)
        (own / "manifest.json").unlink()
        with pytest.raises(RunError, match=r"training\.max_steps \(8 before, 9 now\)"):
            run(edited, resume=True)

    @pytest.mark.parametrize(
        ("line", "edited", "named"),
        [
            ("teacher: self", "teacher: none", r"teacher \(self before, none now\)"),
            ("teacher: self", "teacher: dense", r"teacher \(self before, dense now\)"),
            ("  max_length: 16", "  max_length: 12", r"task\.max_length \(16 before, 12 now\)"),
            ("  metric: f1", "  metric: accuracy", r"task\.metric \(f1 before, accuracy now\)"),
        ],
    )
    def test_an_edited_teacher_or_task(self, line, edited, named, recipe, inputs, tmp_path):
        task = {**inputs["bert"]["task"], "metric": "f1", "max_length": 16}
        own = tmp_path / "run"
        run(recipe(own, teacher="self", task=task, training={"max_steps": 1}))
        (own / "manifest.json").unlink()
        text = (own / "recipe.yaml").read_text()
        assert f"{line}\n" in text
        (own / "recipe.yaml").write_text(text.replace(f"{line}\n", f"{edited}\n"))
        with pytest.raises(RunError, match=named):
            run(Workspace(own).read_recipe(), resume=True)

    def test_what_nothing_trained_depends_on_may_change(self, own, recipe):
        (own / "manifest.json").unlink()
        measure = {"batch_size": 2, "length": 8, "rounds": 3}
        rows = run(recipe(own, measure=measure), resume=True)["summary"]
        assert "ms a batch of 2 (cpu)" in [row["figure"] for row in rows]

    def test_of_an_ended_run_it_changes_nothing_and_says_so(self, own, recipe, caplog):
        with caplog.at_level(logging.WARNING, logger="prune_core"):
            run(recipe(own, compactor="uniform"), resume=True)
        assert "has ended, so this changes nothing: compactor (auto before, uniform now)" in caplog.text

    def test_another_compactor_until_the_compact_model_is_trained(self, recipe, finished, tmp_path):
        own = Path(shutil.copytree(finished("bert", "hybrid")[0], tmp_path / "copy"))
        (own / "manifest.json").unlink()
        uniform = recipe(own, strategy="hybrid", compactor="uniform")
        (own / "recipe.yaml").write_text(uniform.dump())  # not even an edited one makes it fit
        with pytest.raises(RunError, match=r"another recipe, compactor \(auto before, uniform now\): set that back"):
            run(uniform, resume=True)
        shutil.rmtree(own / "checkpoints" / "fill")
        assert run(uniform, resume=True)["needs_prune_core"] is False

    def test_a_damaged_note_of_the_beginning(self, own, recipe):
        truncate(own / "checkpoints" / "begun.json")
        with pytest.raises(RunError, match=r"begun\.json is damaged: .*; remove it and resume"):
            run(recipe(own), resume=True)


@pytest.mark.parametrize("name", ["masks.safetensors", "masked/model.safetensors"])
def test_damaged_results_of_the_training_are_made_again(name, own, recipe, finished, same_result, caplog):
    (own / "manifest.json").unlink()
    truncate(own / name)
    with caplog.at_level(logging.WARNING, logger="prune_core"):
        run(recipe(own), resume=True)
    assert f"{own / name} is damaged: it is made again from the last checkpoint" in caplog.text
    assert same_result(own, finished()[0])


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES = {
    "model.safetensors": truncate,
    "optimizer.pt": truncate,
    "trainer_state.json": truncate,
    "scheduler.pt": lambda path: path.write_bytes(b"garbage"),
    "rng_state.pth": lambda path: path.write_bytes(b""),
    "optimizer.*": lambda path: (path.parent / "optimizer.pt").unlink(),
}


class TestDamagedCheckpoints:
    @pytest.fixture
    def killed(self, own):
        """The copy as a kill after the training leaves it: checkpoints of steps 6 and 8, and no results."""
        for name in ("masked", "model"):
            shutil.rmtree(own / name)
        for name in ("masks.safetensors", "manifest.json"):
            (own / name).unlink()
        return own

    @pytest.mark.parametrize("name", DAMAGES)
    def test_the_one_before_is_taken_and_the_damaged_one_is_named(self, name, killed, caplog):
        folder = killed / "checkpoints" / "prune"
        assert last(folder) == folder / "checkpoint-8"
        assert caplog.text == ""
        DAMAGES[name](folder / "checkpoint-8" / name)
        assert last(folder) == folder / "checkpoint-6"
        assert "checkpoint-8 is damaged" in caplog.text
        assert name.rstrip("*.") in caplog.text

    def test_a_run_goes_on_from_it_to_the_same_end(self, killed, recipe, finished, same_result, caplog):
        truncate(killed / "checkpoints" / "prune" / "checkpoint-8" / "optimizer.pt")
        with caplog.at_level(logging.INFO, logger="prune_core"):
            run(recipe(killed), resume=True)
        assert "checkpoint-8 is damaged (optimizer.pt)" in caplog.text
        assert "resuming from" in caplog.text
        assert "checkpoint-6" in caplog.text
        assert same_result(killed, finished()[0])

    def test_without_any_whole_one_it_begins_anew(self, killed, recipe, finished, same_result, caplog):
        for step in (6, 8):
            truncate(killed / "checkpoints" / "prune" / f"checkpoint-{step}" / "model.safetensors")
        run(recipe(killed), resume=True)
        assert "checkpoint-6 is damaged (model.safetensors): the one before it is taken, if there is one" in caplog.text
        assert same_result(killed, finished()[0])
