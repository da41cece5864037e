"""Whose a folder is: what may be overwritten, who writes to it, and where a recipe that was copied writes."""

import multiprocessing
import platform
import shutil
import signal
from pathlib import Path

import pytest

from prune_cli.overlay import laid_over
from prune_core.errors import RunError
from prune_core.recipe import Recipe
from prune_core.runs.locking import held
from prune_core.runs.run import check
from prune_core.runs.workspace import Workspace, open_workspace, run_of

ROW = {"figure": "accuracy", "dense": "0.9", "pruned": "0.8"}


def write_run(folder, recipe):
    """What a run that was killed after its masks leaves, and a note that somebody put beside it."""
    for name in ("checkpoints/prune/checkpoint-3", "masked", "model", ".model.17.draft"):
        (folder / name).mkdir(parents=True)
    for name in ("masks.safetensors", "metrics.jsonl", "manifest.json", "notes.txt", "checkpoints/begun.json"):
        (folder / name).touch()
    (folder / "recipe.yaml").write_text(recipe.model_copy(update={"output": folder}).dump())
    return folder


def overwrite(recipe):
    with open_workspace(recipe, resume=False, overwrite=True) as workspace:
        workspace.begin(overwrite=True)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class TestOverwrite:
    @pytest.mark.parametrize("text", ["{}", "model: bert\noutput: {folder}", "a: [1", "model: x\noutput: ."])
    def test_a_project_with_a_recipe_is_no_run(self, text, recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("src/main.py", "model/weights.bin", "checkpoints/mine", "train.csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("mine")
        (tmp_path / "recipe.yaml").write_text(text.replace("{folder}", str(tmp_path / "elsewhere")))
        before = files(tmp_path)
        with pytest.raises(RunError, match="is not empty and holds no run"):
            overwrite(recipe(tmp_path))
        assert files(tmp_path) == before

    def test_of_a_run_only_its_own_goes(self, recipe, tmp_path):
        overwrite(recipe(write_run(tmp_path / "run", recipe(tmp_path))))
        assert files(tmp_path / "run") == ["notes.txt"]

    def test_a_run_that_was_moved_is_still_one(self, recipe, tmp_path):
        moved = write_run(tmp_path / "run", recipe(tmp_path)).rename(tmp_path / "moved")
        overwrite(recipe(moved))
        assert files(moved) == ["notes.txt"]

    def test_a_link_goes_and_not_what_it_points_to(self, recipe, tmp_path):
        folder = write_run(tmp_path / "run", recipe(tmp_path))
        (folder / "model").rename(tmp_path / "shipped")
        (folder / "model").symlink_to(tmp_path / "shipped")
        (tmp_path / "shipped" / "weights").touch()
        link = tmp_path / "link"
        link.symlink_to(folder)
        overwrite(recipe(link))
        assert files(folder) == ["notes.txt"]
        assert files(tmp_path / "shipped") == ["weights"]

    def test_the_demonstration_takes_its_data_along_and_nobody_elses(self, recipe, tmp_path):
        folder = write_run(tmp_path / "run", recipe(tmp_path))
        for name in ("data", "dense"):
            (folder / name).mkdir()
        overwrite(recipe(folder))
        assert files(folder) == ["data", "dense", "notes.txt"]
        for model in (None, str(folder / "dense")):
            demo = recipe(folder).model_copy(update={"model": model})
            shutil.rmtree(folder)
            write_run(folder, demo)
            (folder / "data").mkdir()
            (folder / "dense").mkdir()
            overwrite(recipe(folder))
            assert files(folder) == ["notes.txt"]

    @pytest.mark.parametrize("reads", ["model", "teacher", "task.dataset", "task.train_file", "further"])
    @pytest.mark.parametrize("where", ["", "inner"])
    def test_what_the_recipe_reads_is_kept(self, reads, where, recipe, tmp_path):
        folder = write_run(tmp_path / "run", recipe(tmp_path))
        (folder / "inner").mkdir()
        source, mine = str(folder / where), recipe(folder)
        section, _, name = reads.rpartition(".")
        if reads == "further":
            mine = mine.model_copy(
                update={"task": mine.task.model_copy(update={"further_validation": {"other": source}})}
            )
        elif section:
            mine = mine.model_copy(update={"task": mine.task.model_copy(update={name: source})})
        else:
            mine = mine.model_copy(update={name: source})
        before = files(folder)
        with pytest.raises(RunError, match="what this recipe reads: choose another --output"):
            overwrite(mine)
        assert files(folder) == before


class TestCopies:
    """A recipe.yaml in the folder of a run, which names the run that it was copied from."""

    @pytest.fixture
    def copied(self, recipe, tmp_path):
        original = write_run(tmp_path / "original", recipe(tmp_path))
        return Path(shutil.copytree(original, tmp_path / "copy"))

    def test_it_never_writes_to_the_original(self, copied):
        assert run_of(copied / "recipe.yaml") == copied
        assert Workspace(copied).read_recipe().output == copied

    def test_a_recipe_of_another_name_or_place_is_anybodys(self, copied, tmp_path):
        named = Recipe.load(copied / "recipe.yaml").output
        for place in (copied / "mine.yaml", tmp_path / "recipe.yaml"):
            shutil.copy(copied / "recipe.yaml", place)
            assert run_of(place) is None
            assert laid_over(place, {})[0]["output"] == str(named)

    def test_the_command_line_overwrites_the_copy(self, copied, monkeypatch, capsys):
        from prune_cli.app import main

        seen = []
        monkeypatch.setattr(
            "prune_core.runs.run.run",
            lambda recipe, **asked: seen.append(recipe.output) or {"summary": [ROW], "output": ""},
        )
        for flags in (["--overwrite"], ["--resume"], []):
            assert main(["run", str(copied / "recipe.yaml"), *flags]) == 0
        assert seen[:2] == [copied, copied]
        assert seen[2].parent == Path("runs")


def hold(folder, ready):
    with held(folder):
        ready.send(True)
        signal.pause()


class TestLock:
    @pytest.fixture
    def other(self, tmp_path):
        """Another process that holds tmp_path/run."""
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "run", there))
        process.start()
        assert here.poll(30)
        yield process
        process.kill()
        process.join()

    def test_a_run_is_refused_while_another_process_writes_and_not_after_its_death(self, other, recipe, tmp_path):
        mine = recipe(tmp_path / "run")
        for _ in range(2):
            with pytest.raises(RunError, match=rf"is in use by process {other.pid} on {platform.node()}: wait"):
                check(mine)
        other.kill()
        other.join()
        assert (tmp_path / "run" / ".lock").exists(), "it was killed in the middle"
        overwrite(mine.model_copy(update={"output": tmp_path / "free"}))
        with open_workspace(mine, resume=False, overwrite=False):
            pass
        assert not (tmp_path / "run" / ".lock").exists()

    def test_a_folder_that_was_made_for_nothing_goes_again(self, tmp_path):
        with held(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
        assert files(tmp_path) == []
        with held(tmp_path / "a"):
            (tmp_path / "a" / "file").touch()
        assert files(tmp_path) == ["a", "a/file"]


class TestOutputsThatCannotBe:
    def test_below_a_file(self, recipe, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match=r"file/run cannot be written to: Not a directory; choose another --output"):
            check(recipe(tmp_path / "file" / "run"))

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nothing can be made")
    def test_where_nothing_can_be_made(self, recipe):
        with pytest.raises(RunError, match=r"/proc/nope cannot be written to: .*; choose another --output"):
            check(recipe("/proc/nope"))

    def test_a_link_to_nowhere(self, recipe, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
        with pytest.raises(RunError, match="link cannot be written to"):
            check(recipe(tmp_path / "link"), overwrite=True)
