"""What goes wrong in the middle of a run: a full disk, a loss that is no number, models that differ."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune_core.compaction.dense import DenseCompactor
from prune_core.errors import PruneError, RunError, TrainingError, VerificationError
from prune_core.runs.run import run
from prune_core.training.stage import enough_memory
from prune_core.verification import verify as verification

FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))"
"""From here on no file can grow beyond `size` bytes: every write fails, as on a full disk."""


def checkpoints(folder):
    found = (folder / "checkpoints" / "prune").glob("checkpoint-*")
    return sorted(int(path.name.rpartition("-")[2]) for path in found)


def readable(checkpoint):
    """Whether every file of a checkpoint is whole."""
    load_file(checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        torch.load(checkpoint / name, weights_only=False)
    json.loads((checkpoint / "trainer_state.json").read_text())
    return True


class TestMemory:
    def test_too_little_says_what_takes_less(self):
        wanted = r"^prune: there is not enough memory .*lower training.batch_size .*start anew with --overwrite"
        with pytest.raises(TrainingError, match=wanted), enough_memory("prune"):
            torch.empty(2**50)

    def test_other_faults_are_what_they_are(self):
        with pytest.raises(RuntimeError, match="inconsistent tensor size"), enough_memory("prune"):
            torch.ones(2) @ torch.ones(3)


class TestFullDisk:
    """RLIMIT_FSIZE makes the operating system refuse the writes: no mock in between."""

    # the weights with their scores take some 95 kB, the optimizer's state 190 kB, all else below 20 kB
    @pytest.mark.parametrize(
        ("family", "size"),
        [("bert", 60_000), ("bert", 130_000), ("vit", 130_000)],
        ids=["bert, weights", "bert, optimizer", "vit, optimizer"],
    )
    def test_while_a_checkpoint_is_saved(self, family, size, recipe, children, finished, same_result, tmp_path):
        mine = recipe(tmp_path / "run", family=family)
        full = (
            "import prune_core.training.checkpoints as checkpoints\n"
            "original = checkpoints.rotate\n"
            "def rotate(folder, best):\n"
            "    original(folder, best)\n"
            f"    {FULL.format(size=size)}\n"
            "checkpoints.rotate = rotate"
        )
        code, error = children.finish(mine, before=full)
        assert code == 3
        assert error.startswith("TrainingError: no checkpoint could be written at step 6")
        assert "checkpoint-3" in error
        assert "--resume" in error
        assert "\n" not in error
        assert checkpoints(tmp_path / "run") == [3]
        assert readable(tmp_path / "run" / "checkpoints" / "prune" / "checkpoint-3")
        code, error = children.finish(mine, resume=True)
        assert (code, error) == (0, "")
        assert same_result(tmp_path / "run", finished(family, "structured")[0])

    def test_before_the_first_checkpoint(self, recipe, children, tmp_path):
        code, error = children.finish(recipe(tmp_path / "run"), before=FULL.format(size=60_000))
        assert code == 3
        assert error.startswith("TrainingError: no checkpoint could be written at step 3")
        assert "the last whole one is none" in error
        assert checkpoints(tmp_path / "run") == []

    STAGES = {
        "masked": "import prune_core.training; original = life.train\n"
        "def train(*args):\n    original(*args)\n    {full}\nlife.train = train",
        "model": "original = life.save_verified\n"
        "def save(*args):\n    {full}\n    return original(*args)\nlife.save_verified = save",
        "manifest": "original = life.Workspace.write_manifest\n"
        "def write(*args):\n    {full}\n    original(*args)\nlife.Workspace.write_manifest = write",
    }

    @pytest.mark.parametrize("stage", STAGES)
    def test_while_a_result_is_saved(self, stage, recipe, children, finished, same_result, tmp_path):
        folder = tmp_path / "run"
        mine = recipe(folder)
        before = self.STAGES[stage].format(full=FULL.format(size=300))
        code, error = children.finish(mine, before=before)
        assert code == 3
        assert error.startswith(("OSError: ", "RunError: "))
        assert "\n" not in error
        assert not list(folder.glob(f"{stage}*")), "a half-written result looks whole"
        assert not list(folder.glob(".*")), "a draft was left behind"
        code, error = children.finish(mine, resume=True)
        assert (code, error) == (0, "")
        assert same_result(folder, finished("bert", "structured")[0])

    @pytest.mark.parametrize("step", ["write_text", "keep_beginning"])
    def test_before_anything_is_trained(self, step, recipe, children, tmp_path):
        """What is left can be resumed where it holds a recipe, else begun again."""
        folder = tmp_path / "run"
        mine = recipe(folder, training={"max_steps": 2})
        limited = f"def full(*args):\n    {FULL.format(size=300)}\n    original(*args)\n"
        full = f"original = life.{step}\n{limited}life.{step} = full"
        code, error = children.finish(mine, before=full)
        assert code == 3
        assert error.startswith("OSError: ")
        code, error = children.finish(mine, resume=(folder / "recipe.yaml").exists())
        assert (code, error) == (0, "")

    def test_the_limit_is_a_real_one(self, tmp_path):
        """What the tests above rest on: the operating system refuses to let a file grow beyond the limit."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                (tmp_path / "file").write_bytes(b"x" * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestNoNumber:
    """A loss that is nan stops the run at that step, whatever the intervals of logging and saving."""

    @pytest.mark.parametrize("logging_steps", [1, 50])
    @pytest.mark.parametrize("family", ["bert", "vit"])
    def test_it_stops_with_a_clear_error(self, family, logging_steps, recipe, tmp_path):
        wild = {"learning_rate": 1e30, "logging_steps": logging_steps, "save_steps": 1, "warmup": 0.0}
        with pytest.raises(
            TrainingError, match=r"the loss is (nan|inf) at step \d: lower training\.learning_rate"
        ) as e:
            run(recipe(tmp_path / "run", family=family, training=wild, teacher="none"))
        assert "\n" not in str(e.value)
        assert not (tmp_path / "run" / "masks.safetensors").exists()
        assert not (tmp_path / "run" / "model").exists()

    def test_no_checkpoint_holds_a_nan(self, recipe, tmp_path):
        wild = {"learning_rate": 1e30, "logging_steps": 50, "save_steps": 1, "warmup": 0.0}
        with pytest.raises(TrainingError):
            run(recipe(tmp_path / "run", training=wild, teacher="none"))
        for step in checkpoints(tmp_path / "run"):
            state = load_file(tmp_path / "run" / "checkpoints" / "prune" / f"checkpoint-{step}" / "model.safetensors")
            assert [name for name, tensor in state.items() if tensor.isnan().any()] == [], step


class Careless(DenseCompactor):
    """A compactor that forgets a bias."""

    def compact(self, model, masks, structure, *, inplace=False):
        compaction = super().compact(model, masks, structure, inplace=inplace)
        with torch.no_grad():
            compaction.model.get_parameter("bert.encoder.layer.0.output.dense.bias")[0] += 0.5
        return compaction


class TestVerification:
    def test_models_that_differ_are_not_written(self, recipe, finished, same_result, monkeypatch, tmp_path):
        mine = recipe(tmp_path / "run")
        monkeypatch.setattr("prune_core.runs.preparation.choose", lambda *args: Careless())
        with pytest.raises(VerificationError, match=r"masked - compact \d.*no model was written") as caught:
            run(mine)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run" / "model").exists()
        assert not (tmp_path / "run" / "manifest.json").exists()
        monkeypatch.undo()
        run(mine, resume=True)
        assert same_result(tmp_path / "run", finished()[0])

    def test_a_reloaded_model_must_not_differ_at_all(self, recipe, monkeypatch, tmp_path):
        """A thousandth of the tolerance between compact and reloaded is too much."""
        original, seen = verification.outputs, []

        def outputs(model, batches):
            seen.append(model)
            found = original(model, batches)
            return [one + 1e-7 * one.abs().max() for one in found] if len(seen) == 2 else found

        monkeypatch.setattr(verification, "outputs", outputs)
        with pytest.raises(VerificationError, match=r"compact - reloaded \d\.\d\de-\d\d \(at most 0\)"):
            run(recipe(tmp_path / "run"))
        assert not (tmp_path / "run" / "model").exists()

    @pytest.mark.parametrize("strategy", ["structured", "hybrid"])
    def test_what_ships_must_be_what_is_in_memory(self, strategy, recipe, finished, same_result, monkeypatch, tmp_path):
        """The model is spoilt on its way to RUN/model alone: after the compaction was proven, and after a fill."""
        original = verification.save_compact

        def save(compaction, folder, *others):
            original(compaction, folder, *others)
            if folder.parent == tmp_path / "run":
                state = load_file(folder / "model.safetensors")
                state["classifier.bias"] += 1e-6
                save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

        monkeypatch.setattr(verification, "save_compact", save)
        mine = recipe(tmp_path / "run", strategy=strategy)
        with pytest.raises(
            VerificationError, match=r"reloaded, its outputs differ by .*no model was written"
        ) as caught:
            run(mine)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "run").glob("*model*"))
        assert not (tmp_path / "run" / "manifest.json").exists()
        monkeypatch.undo()
        run(mine, resume=True)
        assert same_result(tmp_path / "run", finished("bert", strategy)[0])

    def test_a_nan_is_a_difference(self):
        assert verification.largest_difference([torch.tensor([1.0])], [torch.tensor([torch.nan])]) == torch.inf
        assert verification.largest_difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.5, 2.0])]) == 0.5


class TestWorkspace:
    def test_a_folder_that_holds_a_run_is_refused(self, finished, recipe):
        folder, _ = finished()
        before = (folder / "manifest.json").stat().st_mtime_ns
        with pytest.raises(RunError, match=r"already holds a run; go on with --resume, replace it with --overwrite"):
            run(recipe(folder))
        assert (folder / "manifest.json").stat().st_mtime_ns == before

    def test_overwrite_starts_anew(self, recipe, tmp_path):
        run(recipe(tmp_path / "run", training={"max_steps": 2}))
        manifest = run(recipe(tmp_path / "run", training={"max_steps": 3}), overwrite=True)
        assert manifest["output"] == str(tmp_path / "run")
        assert not (tmp_path / "run" / "checkpoints" / "prune" / "checkpoint-2").exists()

    def test_overwrite_with_a_mistake_in_the_recipe_costs_nothing(self, recipe, tmp_path):
        run(recipe(tmp_path / "run", training={"max_steps": 2}))
        before = sorted(path for path in (tmp_path / "run").rglob("*"))
        data = tmp_path / "other.csv"
        data.write_text("sentence,mood\ngood,1\n")
        with pytest.raises(PruneError, match="no column 'label'"):
            run(recipe(tmp_path / "run", task={"name": "text-classification", "train_file": str(data)}), overwrite=True)
        assert sorted(path for path in (tmp_path / "run").rglob("*")) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("resume", [False, True])
    def test_a_folder_of_other_things_is_never_touched(self, overwrite, resume, recipe, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(RunError, match="is not empty and holds no run; choose another --output"):
            run(recipe(tmp_path), overwrite=overwrite, resume=resume)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_file_is_refused(self, recipe, tmp_path):
        (tmp_path / "run").write_text("mine")
        with pytest.raises(RunError, match="is a file; choose another --output"):
            run(recipe(tmp_path / "run"))

    def test_half_a_file_of_a_run_that_was_killed_is_in_nobodys_way(self, recipe, tmp_path):
        (tmp_path / ".recipe.yaml.4711.draft").write_text("model: ")
        run(recipe(tmp_path, training={"max_steps": 2}))
        assert not list(tmp_path.glob(".*"))

    def test_nothing_to_resume(self, recipe, tmp_path):
        with pytest.raises(RunError, match="holds no run to resume"):
            run(recipe(tmp_path / "run"), resume=True)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("change", "named"),
        [({"training": {"seed": 5}}, r"training\.seed \(0"), ({"strategy": "hybrid"}, r"strategy\.name \(")],
    )
    def test_another_recipe_does_not_resume(self, change, named, finished, recipe):
        folder, _ = finished()
        with pytest.raises(RunError, match=rf"was made by another recipe, {named}"):
            run(recipe(folder, **change), resume=True)

    def test_bad_data_leaves_no_run_behind(self, recipe, tmp_path):
        data = tmp_path / "empty.csv"
        data.write_text("sentence,label\n")
        task = {"name": "text-classification", "train_file": str(data)}
        with pytest.raises(PruneError, match="holds no rows"):
            run(recipe(tmp_path / "run", task=task))
        assert not list((tmp_path / "run").glob("*"))
