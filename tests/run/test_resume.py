"""A run that was killed at any moment, and resumed, ends as one that was never stopped: bit for bit."""

import json
import random

import pytest

from prune_core.runs.run import run

LONG = {"max_steps": 14, "batch_size": 8, "save_steps": 3}
"""42 examples are 6 batches: two epochs and a bit, so that a kill falls into the middle of a later one."""


def logged(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.is_file() else 0


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """`whole(family)`: the folder of a run that was never stopped."""
    done = {}

    def get(family, **options):
        key = (family, *sorted(options.items()))
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole") / family
            run(recipe(done[key], family=family, training=LONG, **options))
        return done[key]

    return get


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_killed_at_random_moments_in_training(family, whole, recipe, children, same_result, tmp_path):
    """Two kills, each a random number of steps after the last, while pruning or filling, at any moment of a step."""
    expected = whole(family, strategy="hybrid")
    mine = recipe(tmp_path / "run", family=family, strategy="hybrid", training=LONG)
    chance = random.Random()
    killed = 0
    for _ in range(2):
        goal = logged(tmp_path / "run") + chance.randint(1, 9)
        process = children.start(mine, resume=(tmp_path / "run" / "recipe.yaml").is_file())
        children.wait(process, lambda goal=goal: logged(tmp_path / "run") >= goal)
        process.join(chance.random() * 0.05)
        process.kill()
        process.join()
        killed += process.exitcode == -9
        assert process.exitcode in (0, -9), process.error.read_text()
    assert killed, "no kill came in time"
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert same_result(tmp_path / "run", expected)


@pytest.mark.parametrize(("family", "step"), [("bert", 9), ("bert", 12), ("vit", 9)])
def test_resumed_from_a_checkpoint_in_or_between_epochs(family, step, whole, recipe, children, same_result, tmp_path):
    """What the test above meets by chance: killed when the checkpoint of a step of a later epoch had been written."""
    expected = whole(family, strategy="hybrid")
    mine = recipe(tmp_path / "run", family=family, strategy="hybrid", training=LONG)
    kill = (
        "import prune_core.training.checkpoints as checkpoints\n"
        "original = checkpoints.rotate\n"
        "def rotate(folder, best):\n"
        "    original(folder, best)\n"
        f"    if (folder / 'checkpoint-{step}').is_dir():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints.rotate = rotate"
    )
    code, _ = children.finish(mine, before=kill)
    assert code == -9
    assert (tmp_path / "run" / "checkpoints" / "prune" / f"checkpoint-{step}").is_dir()
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert same_result(tmp_path / "run", expected)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in steps if "loss" in line and line["stage"] == "prune"]
    assert steps == list(range(1, 15)), "each step is logged once"


KILL = "lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)"
MOMENTS = {
    "after the last checkpoint, before the masks": f"life.replacing = {KILL}",
    "masked model written, masks not": f"life.MaskSet.save = {KILL}",
    "after the masks, before the compact model": f"life._compacted = {KILL}",
    "after the verification, before the fill": f"life._filled = {KILL}",
    "after the fill, before the model": f"life.save_verified = {KILL}",
    "in the middle of writing the model": (
        "import prune_core.files as files\n"
        "original = files._flush\n"
        "def flush(draft):\n"
        "    if draft.name.startswith('.model') and (draft.parent / 'masks.safetensors').is_file():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(draft)\n"
        "files._flush = flush"
    ),
    "after the model, before the manifest": f"life.Workspace.write_manifest = {KILL}",
}


def test_killed_between_all_stages_one_after_the_other(whole, recipe, children, same_result, tmp_path):
    expected = whole("bert", strategy="hybrid")
    folder = tmp_path / "run"
    mine = recipe(folder, strategy="hybrid", training=LONG)
    for moment, patch in MOMENTS.items():
        code, error = children.finish(mine, resume=folder.is_dir(), before=patch)
        assert code == -9, f"{moment}: {error}"
        assert (list(folder.glob(".model.*.draft")) != []) == ("middle" in moment)
        assert not (folder / "manifest.json").exists()
        if "manifest" not in moment:
            assert not (folder / "model").exists(), moment
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert same_result(folder, expected)
    assert [path.name for path in folder.rglob(".*")] == [], "drafts of killed processes were left behind"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 14, "a finished training was resumed and did a step more"


def test_a_finished_run_is_not_run_again(finished, recipe):
    folder, manifest = finished("bert", "structured")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = run(recipe(folder), resume=True)
    assert again == json.loads(json.dumps(manifest, default=str))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_checkpoints_hold_safetensors_and_are_read_without_pickle(whole, weights):
    """The Trainer's own files beside the weights are opened with weights_only=True."""
    import torch

    checkpoint = whole("bert", strategy="hybrid") / "checkpoints" / "prune" / "checkpoint-14"
    names = {path.name for path in checkpoint.iterdir()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".bin", ".pkl"))} - {"training_args.bin"}  # never read
    for name in ("optimizer.pt", "scheduler.pt"):
        assert torch.load(checkpoint / name, weights_only=True)
    assert any("pruning" in name for name in weights(checkpoint)), "the scores are in the checkpoint"
