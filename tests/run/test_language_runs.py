"""Whole runs of models that write or guess text, and what they report: generated texts and perplexity."""

import json

import pytest

from prune_core.recipe import Recipe, TaskSection, TrainingSection
from prune_core.runs.configuring import validated
from prune_core.runs.run import evaluate_folder, run
from prune_core.runs.verifying import verify_run
from tests.tasks import writers

ROWS = 12
SOURCES = [" ".join("abcdef"[(row + shift) % 6] for shift in range(2 + row % 5)) for row in range(ROWS)]
COLUMNS = {
    "summarization": {"document": SOURCES, "summary": [text[:3] for text in SOURCES]},
    "translation": {"en": SOURCES, "de": SOURCES[::-1]},
    "causal-lm": {"text": SOURCES},
    "masked-lm": {"text": SOURCES},
}
OPTIONS = {
    "summarization": {"max_target_length": 4},
    "translation": {"max_target_length": 4, "source_lang": "en", "target_lang": "de"},
    "causal-lm": {"max_length": 8},
    "masked-lm": {"max_length": 8},
}
METRICS = {
    "summarization": "rougeL",
    "translation": "bleu",
    "causal-lm": "perplexity (lower is better)",
    "masked-lm": "perplexity (lower is better)",
}
CLASSES = {"summarization": "Seq2SeqLM", "translation": "Seq2SeqLM", "causal-lm": "CausalLM", "masked-lm": "MaskedLM"}
CASES = [
    ("summarization", writers.bart),
    ("translation", writers.bart),
    ("translation", writers.t5),
    ("causal-lm", writers.opt),
    ("causal-lm", writers.llama),
    ("causal-lm", writers.gpt2),
    ("masked-lm", writers.bert),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def finished(request, tmp_path_factory):
    """Task, folder and manifest of a short run."""
    task, make = request.param
    folder = tmp_path_factory.mktemp("run")
    file = str(writers.write(folder / "rows.jsonl", **COLUMNS[task]))
    recipe = {
        "model": writers.save(folder / "dense", make()),
        "task": {"name": task, "train_file": file, "validation_file": file, **OPTIONS[task]},
        "strategy": {"name": "structured", "density": 0.5, "neuron_multiple": 1},
        "training": {"max_steps": 6, "batch_size": 4, "eval_batch_size": 5, "learning_rate": 1e-3},
        "measure": {"batch_size": 1, "length": 8, "rounds": 3},
        "device": "cpu",
        "output": str(folder / "run"),
    }
    return task, folder / "run", run(validated(recipe))


def test_it_reports_the_tasks_figure(finished):
    task, folder, manifest = finished
    assert manifest["teacher"] == "self"
    assert manifest["metric"]["greater_is_better"] == (task in ("summarization", "translation"))
    first = manifest["summary"][0]
    assert first["figure"] == METRICS[task]
    assert float(first["pruned"].replace(",", "")) == pytest.approx(manifest["metric"]["pruned"], abs=0.01)
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses


def test_heads_of_every_attention_count(finished):
    """Those that look at the encoder too, in the report and in the model card."""
    _, folder, manifest = finished
    config = json.loads((folder.parent / "dense" / "config.json").read_text())
    stacks = 3 if config.get("is_encoder_decoder") else 1
    dense = stacks * 2 * 2  # two layers of two heads
    (row,) = [row for row in manifest["summary"] if row["figure"] == "heads"]
    kept = sum(unit["kept"] for unit in manifest["units"] if not unit["key"].endswith(".ffn"))
    assert (row["dense"], row["pruned"]) == (str(dense), str(kept))
    assert f"| heads | {dense} | {kept} |" in (folder / "model" / "README.md").read_text()


def test_the_configuration_stays_but_for_the_sizes(finished):
    """A Trainer leaves use_cache off in it."""
    folder = finished[1]
    dense, masked, model = (
        json.loads((path / "config.json").read_text())
        for path in (folder.parent / "dense", folder / "masked", folder / "model")
    )
    assert masked == dense
    assert model.pop("quantization_config")
    assert model == dense


def test_the_compact_model_computes_what_the_masked_one_does(finished):
    assert verify_run(finished[1]).passed


def test_another_evaluation_gives_the_same_figures(finished):
    """In batches of another size, of the model that was saved."""
    task, folder, manifest = finished
    section = manifest_task(folder)
    training = TrainingSection(eval_batch_size=3)
    found = evaluate_folder(Recipe(model=str(folder / "model"), task=section, training=training, device="cpu"))
    assert found == pytest.approx(manifest["metrics"]["pruned"], rel=1e-4)
    assert found.keys() == manifest["metrics"]["dense"].keys()
    assert task == section.name


def test_the_card_names_the_class_that_loads_it(finished):
    task, folder, _ = finished
    card = (folder / "model" / "README.md").read_text()
    assert f"from transformers import AutoModelFor{CLASSES[task]}\n" in card


def manifest_task(folder):
    section = Recipe.load(folder / "recipe.yaml").task
    return TaskSection.model_validate(section.model_dump())
