"""Ctrl-C once finishes the step and saves; the run then ends as one that was never stopped. Twice stops at once."""

import json

from prune_core.runs.run import run

SHORT = {"max_steps": 7, "batch_size": 8, "save_steps": 100}
PRESS = """
from prune_core.training.trainer import PruningTrainer
original = PruningTrainer.compute_loss
calls = []
def compute_loss(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 4:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # of the same Ctrl-C, handed on by torchrun
        {then}
    return original(self, *args, **kwargs)
PruningTrainer.compute_loss = compute_loss
"""
TWICE = "import time; time.sleep(1.2); signal.raise_signal(signal.SIGINT)"


def test_once(recipe, children, same_result, tmp_path):
    run(recipe(tmp_path / "whole", training=SHORT))
    mine = recipe(tmp_path / "run", training=SHORT)
    code, error = children.finish(mine, before=PRESS.format(then="pass"))
    assert (code, error) == (3, "KeyboardInterrupt: ")
    (checkpoint,) = (tmp_path / "run" / "checkpoints" / "prune").iterdir()
    assert checkpoint.name == "checkpoint-4"
    assert not (tmp_path / "run" / "masked").exists()
    run(mine, resume=True)
    assert same_result(tmp_path / "run", tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 8))


def test_twice(recipe, children, tmp_path):
    code, error = children.finish(recipe(tmp_path / "run", training=SHORT), before=PRESS.format(then=TWICE))
    assert (code, error) == (3, "KeyboardInterrupt: ")
    assert not list((tmp_path / "run" / "checkpoints" / "prune").glob("checkpoint-*"))
