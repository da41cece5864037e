"""A compact model fine-tunes with transformers' own Trainer, and resumes from its checkpoints as it went on."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from prune_core import round_embeddings
from prune_core.embeddings.bits import EXPONENT
from prune_core.folders.loading import structure_of
from prune_core.folders.storage import MASK
from prune_core.testing.tiny import tiny_inputs


def data(model):
    batch = tiny_inputs(model, batch=24)
    return Dataset.from_dict({name: value.tolist() for name, value in batch.items()})


def trainer(model, folder):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
    )
    return Trainer(model=model, args=arguments, train_dataset=data(model))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_fine_tuning_with_checkpoints_and_resume(sparse, compact_folder, same, tmp_path):
    folder = compact_folder("bert", sparse=sparse).folder
    whole = AutoModelForSequenceClassification.from_pretrained(folder)
    trainer(whole, tmp_path / "out").train()
    assert not same(whole, compact_folder("bert", sparse=sparse).model)

    middle = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoint-3")
    assert structure_of(middle) == structure_of(whole)
    assert not same(middle, whole)

    resumed = AutoModelForSequenceClassification.from_pretrained(folder)
    trainer(resumed, tmp_path / "out").train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert same(resumed, whole)

    last = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoint-6")
    assert same(last, whole)


def test_resume_with_embeddings_that_were_stored_in_few_bits(compact_folder, same, tmp_path):
    """The first checkpoint holds them in full, as they are trained; frozen ones stay in few bits."""
    for frozen in (False, True):
        folder = tmp_path / f"{frozen}"
        model = AutoModelForSequenceClassification.from_pretrained(compact_folder("bert").folder)
        round_embeddings(model)
        model.save_pretrained(folder / "start")
        models = [AutoModelForSequenceClassification.from_pretrained(folder / "start") for _ in range(2)]
        for one in models:
            one.get_input_embeddings().requires_grad_(not frozen)
        trainer(models[0], folder).train()
        trainer(models[1], folder).train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        assert same(models[0], models[1])
        assert same(AutoModelForSequenceClassification.from_pretrained(folder / "checkpoint-6"), models[0])
        with safe_open(folder / "checkpoint-3" / "model.safetensors", framework="pt") as file:
            assert any(name.endswith(EXPONENT) for name in file.keys()) == frozen


def test_the_trainers_save_model_is_a_compact_folder(compact_folder, same, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(compact_folder("bert", sparse=True).folder)
    trainer(model, tmp_path / "out").save_model(str(tmp_path / "saved"))
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved"), model)
    with safe_open(Path(tmp_path / "saved" / "model.safetensors"), framework="pt") as file:
        assert any(name.endswith(MASK) for name in file.keys())


def test_a_loop_of_ones_own(compact_folder):
    model = AutoModelForSequenceClassification.from_pretrained(compact_folder("bert").folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(**tiny_inputs(model)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
