"""A run of two processes ends as one of one process, and a killed one as one that was never stopped."""

import json
import random
import subprocess
import sys

import pytest
import torch

from prune_core.recipe import Recipe
from prune_core.runs.run import run

BOTH_WELL = [(0, ""), (0, "")]
HALVES = {"max_steps": 10, "batch_size": 4, "save_steps": 3, "eval_steps": 4}
WHOLE = {**HALVES, "batch_size": 8}


def logged(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.is_file() else 0


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("strategy", "teacher"), [("hybrid", "self"), ("structured", "none")])
def test_two_processes_are_one_with_their_global_batch(
    strategy, teacher, still, forty, recipe, children, weights, tmp_path
):
    """Movement scores, a teacher and a fill; gates and a pressure. Adam blows up rounding: weights are near only."""
    options = {"strategy": strategy, "teacher": teacher, "model": still, "task": forty}
    one = run(recipe(tmp_path / "one", training=WHOLE, **options))
    assert children.finish_pair(recipe(tmp_path / "two", training=HALVES, **options)) == BOTH_WELL
    two = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert two["density"] == one["density"]
    assert two["units"] == one["units"]
    assert two["metrics"]["pruned"] == pytest.approx(one["metrics"]["pruned"], abs=1e-9)
    assert two["metrics"]["dense"] == one["metrics"]["dense"]
    masks = [weights(tmp_path / name / "masks.safetensors") for name in ("one", "two")]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    for figure in ("loss", "eval_accuracy"):
        mine, theirs = ([line[figure] for line in lines(tmp_path / name) if figure in line] for name in ("one", "two"))
        assert mine, figure
        assert len(theirs) == len(mine), "both processes wrote a log"
        assert theirs == pytest.approx(mine, abs=2e-4)


def test_two_processes_share_lessons_densities_and_training_for_int8(still, forty, recipe, children, tmp_path):
    """The main process asks the teacher once for all; each density and its int8 figures are those of one process."""
    pytest.importorskip("torchao")
    options = {
        "strategy": "structured",
        "options": {"density": None},
        "densities": [0.8, 0.5],
        "distillation": {"cache": True},
        "quantize": {"bits": 8, "max_steps": 2},
        "model": still,
        "task": forty,
    }
    one = run(recipe(tmp_path / "one", training=WHOLE, **options))
    assert children.finish_pair(recipe(tmp_path / "two", training=HALVES, **options)) == BOTH_WELL
    assert len(one["members"]) == 2
    for density in (0.8, 0.5):
        mine, theirs = (
            json.loads((tmp_path / name / f"density-{density}" / "manifest.json").read_text())
            for name in ("one", "two")
        )
        assert theirs["density"] == mine["density"]
        assert theirs["units"] == mine["units"]
        assert theirs["metrics"].keys() == {"dense", "pruned", "int8"}
        assert theirs["metrics"]["pruned"] == pytest.approx(mine["metrics"]["pruned"], abs=1e-9)
    assert not (tmp_path / "two" / "teacher").exists(), "lessons are thrown away at the end"


LONG = {"max_steps": 8, "batch_size": 4, "save_steps": 3}
"""42 rows are 6 steps of two processes: a kill falls into the first epoch or the second."""


def test_killed_processes_resume_to_the_same_bits(recipe, children, same_result, tmp_path):
    """With dropout, whose random states each process has of its own; one process killed ends the other."""
    options = {"strategy": "hybrid", "training": LONG}
    assert children.finish_pair(recipe(tmp_path / "whole", **options)) == BOTH_WELL
    mine = recipe(tmp_path / "run", **options)
    goal = random.Random().randint(3, 7)
    pair = children.start_pair(mine)
    children.wait(pair[0], lambda: logged(tmp_path / "run") >= goal)
    pair[1].kill()
    (code, error), (killed, _) = map(children.end, pair)
    assert killed == -9
    assert (code, error) == (3, "ElsewhereError: another process of this run has ended: its own message says why")
    assert children.finish_pair(mine, resume=True) == BOTH_WELL
    assert same_result(tmp_path / "run", tmp_path / "whole")
    steps = [line["step"] for line in lines(tmp_path / "run") if "loss" in line and line["stage"] == "prune"]
    assert steps == list(range(1, 9)), "each step is logged once"
    assert {path.name for path in (tmp_path / "run" / "checkpoints" / "prune" / "checkpoint-8").glob("rng*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    code, error = children.finish(mine.model_copy(update={"output": tmp_path / "run"}), resume=True)
    assert (code, error) == (0, ""), "a finished run is told by any number of processes"
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "masks.safetensors").unlink()
    code, error = children.finish(mine, resume=True)
    assert code == 3
    assert "was made by 2 processes, and this run has 1: start as many as before" in error


def test_an_error_in_the_main_process_ends_the_other(recipe, children, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (code, error), (other, silent) = children.finish_pair(recipe(tmp_path / "run"))
    assert (code, other) == (3, 3)
    assert error.startswith("RunError: ")
    assert silent.startswith("ElsewhereError: the main process of this run failed")


def test_a_loss_astray_in_one_process_stops_both(recipe, children, tmp_path):
    spoil = """
from prune_core.training.trainer import PruningTrainer
original = PruningTrainer.compute_loss
def compute_loss(self, *args, **kwargs):
    loss = original(self, *args, **kwargs)
    return loss * float("nan") if self.state.global_step == 4 and os.environ["RANK"] == "1" else loss
PruningTrainer.compute_loss = compute_loss
"""
    (main, waiting), (other, error) = children.finish_pair(recipe(tmp_path / "run", training=LONG), before=spoil)
    assert (main, other) == (3, 3)
    assert error.startswith("TrainingError: the loss is nan at step 5: lower training.learning_rate")
    assert waiting.startswith(("TrainingError: the norm of the gradients is nan at step 5", "ElsewhereError: "))
    assert [path.name for path in (tmp_path / "run" / "checkpoints" / "prune").iterdir()] == ["checkpoint-3"]


def test_an_interrupt_of_one_process_saves_and_stops_both(recipe, children, tmp_path):
    press = """
from prune_core.training.callbacks import StrategySteps
original = StrategySteps.on_step_end
def on_step_end(self, args, state, control, **kwargs):
    original(self, args, state, control, **kwargs)
    if state.global_step == 4 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGINT)
StrategySteps.on_step_end = on_step_end
"""
    ended = children.finish_pair(recipe(tmp_path / "run", training=LONG), before=press)
    assert ended == [(3, "KeyboardInterrupt: ")] * 2
    saved = {path.name for path in (tmp_path / "run" / "checkpoints" / "prune").iterdir()}
    assert saved == {"checkpoint-3", "checkpoint-4"}


TWO = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", *TWO],
    "accelerate, sharded": ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", *TWO],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_as_a_user_types_it(launcher, recipe, tmp_path):
    """One table from two processes; an error of all is one line of each, with its number but for the main one's."""
    written = recipe(tmp_path / "run", strategy="structured", training={"max_steps": 3})
    (tmp_path / "recipe.yaml").write_text(written.dump())
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "prune_cli", "run", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The compact model is") == 1
    assert len(list((tmp_path / "run" / "checkpoints" / "prune" / "checkpoint-3").glob("rng_state_*"))) == 2
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").training.sharded is ("sharded" in launcher)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    (line,) = [line for line in again.stderr.splitlines() if line.startswith("prune: error: ")]
    assert "already holds a run" in line
