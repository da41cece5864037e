"""An evaluation takes the longest texts first; its figures are those of the examples one by one, as in the file."""

import json
import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score, matthews_corrcoef

from prune_core.recipe import TrainingSection
from prune_core.task import IGNORED
from prune_core.tasks.config import MultipleChoiceConfig, TextClassificationConfig, TokenClassificationConfig
from prune_core.tasks.multiple_choice import MultipleChoice
from prune_core.tasks.text_classification import TextClassification
from prune_core.tasks.token_classification import TokenClassification
from prune_core.training import arguments, make_trainer
from tests.tasks.conftest import WORDS

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def _words(generator: random.Random) -> list[str]:
    return generator.choices(WORDS[5:], k=generator.randint(1, 9))


def _made(make, folder: Path):
    """The task on 30 examples, and its model."""
    generator = random.Random(0)
    file = folder / "v.jsonl"
    file.write_text("\n".join(json.dumps(make(generator)) for _ in range(30)))
    return {"train_file": file, "validation_file": file}


def _text(generator):
    return {"text": " ".join(_words(generator)), "label": generator.choice("ab")}


def _tagged(generator):
    words = _words(generator)
    return {"tokens": words, "tags": generator.choices(TAGS, k=len(words))}


def _choice(generator):
    choices = [" ".join(_words(generator)) for _ in range(3)]
    return {"context": "a", "choices": choices, "label": generator.randrange(3)}


def _one_by_one(task, model) -> tuple[list, list]:
    """Predictions and references of each example alone."""
    with torch.no_grad():
        found = [task.predict(model, task.collate([feature])) for feature in task.validation()]
    return [guess[0].numpy() for guess, _ in found], [truth[0].numpy() for _, truth in found]


def _evaluated(task, model, folder: Path) -> dict[str, float]:
    """Figures by the Trainer, in batches; also asserted: these begin with the longest texts."""
    trainer = make_trainer(model, task, arguments(TrainingSection(eval_batch_size=7), folder / "e", "cpu", text=False))
    widths = [batch["input_ids"].shape[-1] for batch in trainer.get_test_dataloader(task.validation())]
    assert len(widths) == 5
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    figures = trainer.predict(task.validation()).metrics
    return {name.removeprefix("test_"): value for name, value in figures.items()}


def _agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_text_classification(tmp_path, text_model):
    task = TextClassification(TextClassificationConfig(**_made(_text, tmp_path)), text_model(["a", "b"]))
    model = task.load_model(task.source).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(50)  # or all fall into one class
    logits, truths = _one_by_one(task, model)
    guesses = np.argmax(logits, -1)
    expected = {"accuracy": accuracy_score(truths, guesses), "matthews": matthews_corrcoef(truths, guesses)}
    _agree(_evaluated(task, model, tmp_path), expected)
    assert 0 < expected["accuracy"] < 1


def test_token_classification(tmp_path, tagger):
    task = TokenClassification(TokenClassificationConfig(**_made(_tagged, tmp_path)), tagger(TAGS))
    model = task.load_model(task.source).eval()
    guesses, truths = _one_by_one(task, model)
    counted = [truth != IGNORED for truth in truths]
    named = [
        [[TAGS[i] for i in ids[keep]] for ids, keep in zip(rows, counted, strict=True)] for rows in (truths, guesses)
    ]
    expected = {
        "f1": f1_score(*named),
        "precision": precision_score(*named),
        "recall": recall_score(*named),
        "accuracy": accuracy_score(*(list(chain.from_iterable(rows)) for rows in named)),
    }
    _agree(_evaluated(task, model, tmp_path), expected)
    assert 0 < expected["f1"] < 1


def test_multiple_choice(tmp_path, chooser):
    task = MultipleChoice(MultipleChoiceConfig(**_made(_choice, tmp_path)), chooser())
    model = task.load_model(task.source).eval()
    logits, truths = _one_by_one(task, model)
    expected = {"accuracy": accuracy_score(truths, np.argmax(logits, -1))}
    _agree(_evaluated(task, model, tmp_path), expected)
    assert 0 < expected["accuracy"] < 1
