"""The embedded demonstration: its data, its dense model, and the whole of it in short."""

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from prune_cli.app import main
from prune_core.runs import demo
from prune_core.runs.demo import prepare_demo
from prune_core.tasks.image_classification import ImageClassification


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def prepared(cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    prepare_demo(folder, seed=0, max_steps=1, use_cpu=True)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_step_leaves_a_whole_model_and_its_data(prepared: Path):
    assert names(prepared) == ["data", "dense"]
    assert names(prepared / "dense") == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_what_is_there_is_kept_and_is_a_task(prepared: Path):
    before = {file: file.stat().st_mtime_ns for file in prepared.rglob("*") if file.is_file()}
    path, section = prepare_demo(prepared, seed=0)
    assert {file: file.stat().st_mtime_ns for file in prepared.rglob("*") if file.is_file()} == before
    task = ImageClassification(section, path)
    assert (len(task.train()), len(task.validation())) == (1437, 360)
    assert task.has_trained_head(path)
    model = AutoModelForImageClassification.from_pretrained(path)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.patch_size) == (192, 4, 2)
    batch = task.collate(list(task.validation().select(range(4))))
    assert batch["pixel_values"].shape == (4, 1, 8, 8)
    assert model(**batch).logits.shape == (4, 10)


def test_a_training_that_fails_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, seed=0)
    assert names(tmp_path) == ["data"]


def test_the_dense_model_is_trained_on_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(Trainer, "train", lambda trainer: seen.append((trainer.args.n_gpu, trainer._train_batch_size)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    prepare_demo(tmp_path, seed=0)
    assert seen == [(1, 32)]


def test_the_whole_demonstration_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`make demo` with a few steps each: from neither model nor task to a table and a folder that loads."""
    monkeypatch.setitem(demo._TRAINING, "max_steps", 4)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # main sets it: no other test shall inherit it
    folder = tmp_path / "demo"
    short = ["--max-steps", "8", "--set", "measure.rounds=3", "--set", "fill.max_steps=2", "--device", "cpu"]
    assert main(["run", "--output", str(folder), *short]) == 0
    table = capsys.readouterr().out
    for row in ("accuracy", "density", "heads", "neurons", "speed-up", "masked = compact", "compact = reloaded"):
        assert row in table
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["verification"]["passed"]
    assert manifest["metric"]["dense"] is not None
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["model"] == str(folder / "dense")
    results = ["manifest.json", "masked", "masks.safetensors", "metrics.jsonl", "model", "recipe.yaml"]
    assert names(folder) == sorted(["checkpoints", "data", "dense", *results])
    model = AutoModelForImageClassification.from_pretrained(folder / "model")
    assert model.num_parameters() < AutoModelForImageClassification.from_pretrained(folder / "dense").num_parameters()


@pytest.mark.slow
def test_the_dense_model_knows_its_digits(tmp_path: Path):
    path, section = prepare_demo(tmp_path, seed=0)
    task = ImageClassification(section, path)
    arguments = TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, report_to=[])
    parts = {"data_collator": task.collate, "compute_metrics": task.metrics}
    trainer = Trainer(model=task.load_model(path), args=arguments, **parts)
    assert trainer.predict(task.validation()).metrics["test_accuracy"] >= 0.97
