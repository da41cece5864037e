"""The embedded demonstration's data and dense model; `make demo` runs the whole of it."""

from pathlib import Path

import datasets
import pytest
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from prune_core.demo import prepare_demo
from prune_core.tasks.image_classification import ImageClassification


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_step_leaves_a_whole_model_and_its_data(tmp_path: Path):
    path, section = prepare_demo(tmp_path, seed=0, max_steps=1, use_cpu=True)
    assert names(tmp_path) == ["data", "dense"]
    assert names(Path(path)) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    task = ImageClassification(section, path)
    assert (len(task.train()), len(task.validation())) == (1437, 360)
    assert task.has_trained_head(path)
    model = AutoModelForImageClassification.from_pretrained(path)
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.patch_size) == (192, 4, 2)
    batch = task.collate(list(task.validation().select(range(4))))
    assert batch["pixel_values"].shape == (4, 1, 8, 8)
    assert model(**batch).logits.shape == (4, 10)


def test_what_is_there_is_kept(tmp_path: Path):
    path, section = prepare_demo(tmp_path, seed=0, max_steps=1, use_cpu=True)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert prepare_demo(tmp_path, seed=0) == (path, section)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_training_that_fails_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, seed=0)
    assert names(tmp_path) == ["data"]


@pytest.mark.slow
def test_the_dense_model_knows_its_digits(tmp_path: Path):
    path, section = prepare_demo(tmp_path, seed=0)
    task = ImageClassification(section, path)
    arguments = TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, report_to=[])
    parts = {"data_collator": task.collate, "compute_metrics": task.metrics}
    trainer = Trainer(model=task.load_model(path), args=arguments, **parts)
    assert trainer.predict(task.validation()).metrics["test_accuracy"] >= 0.97
