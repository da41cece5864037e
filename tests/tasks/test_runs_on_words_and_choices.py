"""Runs of token classification and multiple choice from end to end: trained, compacted, verified, measured, loaded."""

import json
import random

import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoModelForTokenClassification, AutoTokenizer

from prune_core.runs.configuring import validated
from prune_core.runs.run import evaluate_folder, run
from prune_core.runs.verifying import verify_run
from tests.tasks.conftest import WORDS


def _tagged(generator: random.Random) -> dict:
    words = generator.choices(WORDS[5:], k=generator.randint(1, 9))
    return {"tokens": words, "tags": ["B-Q" if word in ("good", "bad") else "O" for word in words]}


def _choice(generator: random.Random) -> dict:
    right = generator.randrange(3)
    choices = [" ".join(generator.choices(["film", "a"], k=generator.randint(1, 5))) for _ in range(3)]
    choices[right] += " good"
    return {"question": "the film", "choices": choices, "label": "ABC"[right]}


TASKS = {
    "token-classification": (_tagged, AutoModelForTokenClassification, "f1"),
    "multiple-choice": (_choice, AutoModelForMultipleChoice, "accuracy"),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_run(task, tmp_path, tagger, chooser):
    make, auto_class, metric = TASKS[task]
    torch.manual_seed(0)
    generator = random.Random(0)
    for name, rows in (("train", 48), ("validation", 16)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(make(generator)) for _ in range(rows)))
    data = {f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    recipe = {
        "model": tagger(["O", "B-Q"]) if task == "token-classification" else chooser(),
        "task": {"name": task, **data},
        "strategy": {"name": "structured", "density": 0.5},
        "teacher": "none",  # its head is random: what is learned is learned of the labels
        "training": {"max_steps": 80, "batch_size": 8, "learning_rate": 1e-2, "logging_steps": 10},
        "measure": {"batch_size": 1, "length": 8, "rounds": 3},
        "device": "cpu",
        "output": str(tmp_path / "run"),
    }
    manifest = run(validated(recipe))
    assert manifest["metrics"]["pruned"][metric] > 0.8
    model = tmp_path / "run" / "model"
    assert verify_run(tmp_path / "run").passed
    figures = evaluate_folder(validated(recipe | {"model": str(model)}))
    assert figures[metric] == pytest.approx(manifest["metrics"]["pruned"][metric], abs=1e-9)
    loaded = auto_class.from_pretrained(model)
    tokens = AutoTokenizer.from_pretrained(model)("the good film", return_tensors="pt")
    tokens = tokens if task == "token-classification" else {name: ids.unsqueeze(1) for name, ids in tokens.items()}
    assert loaded(**tokens).logits.isfinite().all()
