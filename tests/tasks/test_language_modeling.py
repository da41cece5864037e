"""Causal and masked language models: blocks, shifting, masks that stay, and perplexity against a plain loop."""

import math
import os
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertLMHeadModel, BertModel, EvalPrediction

from prune_core.distillation.lessons import refuse_redrawn
from prune_core.distillation.teacher import Teacher
from prune_core.errors import DataError, ModelError, RecipeError
from prune_core.recipe import DistillationSection
from prune_core.tasks.config import LanguageModelingConfig, MaskedLanguageModelingConfig
from prune_core.tasks.language_modeling import CausalLanguageModeling, MaskedLanguageModeling
from tests.tasks import writers
from tests.tasks.writers import END, MASK, START

TEXTS = ["a b c", "d", "e f a b c d e", "f ."]
DATA = Path(os.environ.get("PRUNE_DATA", Path(__file__).parents[2] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here (PRUNE_DATA)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """OPT begins a text with a token, Llama here does not; BERT frames it."""
    root = tmp_path_factory.mktemp("models")
    return {
        "opt": writers.save(root / "opt", writers.opt(), writers.tokenizer(behind="")),
        "llama": writers.save(root / "llama", writers.llama(), writers.tokenizer(before="", behind="", pad=None)),
        "bert": writers.save(root / "bert", writers.bert()),
    }


@pytest.fixture(params=["opt", "llama"])
def decoder(request, folders):
    return folders[request.param]


def causal(model, folder, texts=TEXTS, **others):
    file = writers.write(folder / "t.jsonl", text=texts)
    return CausalLanguageModeling(LanguageModelingConfig(train_file=file, validation_file=file, **others), model)


def masked(model, folder, texts=TEXTS, **others):
    file = writers.write(folder / "t.jsonl", text=texts)
    section = MaskedLanguageModelingConfig(train_file=file, validation_file=file, **others)
    return MaskedLanguageModeling(section, model)


def figures(task, model, sizes):
    """Of validation in batches of these sizes, gathered as the Trainer does."""
    rows = iter(task.validation())
    batches = [batch for size in sizes if (batch := list(islice(rows, size)))]
    assert not list(rows)
    found = [task.predict(model, task.collate(batch)) for batch in batches]
    sums, counts = (torch.cat(side).detach().numpy() for side in zip(*found, strict=True))
    return task.metrics(EvalPrediction(sums, counts))


def test_texts_are_joined_and_cut_into_blocks(folders, tmp_path):
    """Every token of every text once, in order, with an end behind each; a block begins as a text does."""
    joined = [5, 6, 7, END, 8, END, 9, 10, 5, 6, 7, 8, 9, END, 10, 11, END]
    blocks = causal(folders["llama"], tmp_path, max_length=6).train()["input_ids"][:]
    assert blocks == [joined[:6], joined[6:12], joined[12:]]
    blocks = causal(folders["opt"], tmp_path, max_length=6).train()["input_ids"][:]
    assert blocks == [[START, *joined[start : start + 5]] for start in range(0, 17, 5)]
    blocks = masked(folders["bert"], tmp_path, max_length=6).train()["input_ids"][:]
    assert blocks == [[START, *joined[start : start + 4], END] for start in range(0, 17, 4)]


def test_a_separator_of_ones_own_and_texts_by_themselves(folders, tmp_path):
    task = causal(folders["llama"], tmp_path, separator=" .", max_length=5)
    assert task.train()["input_ids"][0] == [5, 6, 7, 11, 8]
    task = causal(folders["llama"], tmp_path, blocks=False, max_length=5)
    assert task.train()["input_ids"][:] == [[5, 6, 7, END], [8, END], [9, 10, 5, 6, 7], [10, 11, END]]
    task = masked(folders["bert"], tmp_path, blocks=False, max_length=5)
    assert task.train()["input_ids"][:2] == [[START, 5, 6, 7, END], [START, 8, END]]


@pytest.mark.parametrize("blocks", [True, False])
def test_perplexity_is_that_of_a_plain_loop(decoder, tmp_path, blocks):
    """Token by token, each from those before it, whatever the batches."""
    task = causal(decoder, tmp_path, max_length=6, blocks=blocks)
    model = task.load_model(decoder).eval()
    losses = []
    for row in task.validation():
        for end in range(1, len(row["input_ids"])):
            context = torch.tensor([row["input_ids"][:end]])
            losses.append(-model(context).logits[0, -1].log_softmax(-1)[row["input_ids"][end]].item())
    expected = math.exp(math.fsum(losses) / len(losses))
    for sizes in ([4], [1, 1, 1, 1], [3, 1]):
        found = figures(task, model, sizes)
        assert found["perplexity"] == pytest.approx(expected, rel=1e-5)
        assert found["nll"] == pytest.approx(math.log(expected), rel=1e-5)
    assert task.greater_is_better is False
    assert task.metric == "perplexity"


def test_what_a_causal_model_is_taught_is_what_it_predicts(decoder, tmp_path):
    task = causal(decoder, tmp_path, blocks=False)
    model = task.load_model(decoder).eval()
    batch = task.collate(list(task.train()))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    outputs = model(**batch)
    counted = task.counted(batch)
    assert counted.sum(dim=1).tolist() == [len(ids) - 1 for ids in task.train()["input_ids"]]
    followers = batch["input_ids"][:, 1:][counted[:, :-1]]
    loss = F.cross_entropy(task.taught(outputs, batch)["logits"][counted], followers)
    torch.testing.assert_close(loss, outputs.loss)


def test_padding_counts_for_nothing(decoder, tmp_path):
    task = causal(decoder, tmp_path, blocks=False)
    student, teacher = (task.load_model(decoder).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    tutor = Teacher(teacher, task, DistillationSection(hidden_states=1.0))
    batch = task.collate(list(task.train()))
    wide = {name: F.pad(value, (0, 3), value=-100 * (name == "labels")) for name, value in batch.items()}
    losses = [tutor.loss(student(**one, output_hidden_states=True), one) for one in (batch, wide)]
    assert losses[0] > 0.01
    torch.testing.assert_close(*losses)


def test_masked_perplexity_is_that_of_a_plain_loop_and_stays(folders, tmp_path):
    task = masked(folders["bert"], tmp_path, max_length=7, masked_share=0.4)
    model = task.load_model(folders["bert"]).eval()
    losses = []
    for row in task.validation():
        batch = task.collate([row])
        assert (batch["labels"] != -100).any()
        logits = model(batch["input_ids"]).logits[0]
        hidden = (batch["labels"][0] != -100).nonzero()[:, 0].tolist()
        losses += [-logits[at].log_softmax(-1)[batch["labels"][0, at]].item() for at in hidden]
    expected = math.exp(math.fsum(losses) / len(losses))
    for sizes in ([4], [2, 2], [1, 3]):
        assert figures(task, model, sizes)["perplexity"] == pytest.approx(expected, rel=1e-5)
    other = masked(folders["bert"], tmp_path, max_length=7, masked_share=0.4, mask_seed=1)
    rows = list(task.validation())
    assert not torch.equal(task.collate(rows)["labels"], other.collate(rows)["labels"])


def test_masks_in_training_follow_from_seed_and_batch(folders, tmp_path):
    task = masked(folders["bert"], tmp_path, max_length=7, masked_share=0.5)
    rows = list(task.train())
    torch.manual_seed(0)
    first = task.collate(rows)
    torch.manual_seed(1)
    again = masked(folders["bert"], tmp_path, max_length=7, masked_share=0.5).collate(rows)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], task.collate(rows[::-1])["labels"].flip(0))
    assert torch.equal(task.counted(first), first["labels"] != -100)


def test_a_teacher_is_not_remembered_where_masks_change(folders, decoder, tmp_path):
    task = masked(folders["bert"], tmp_path, max_length=7)
    with pytest.raises(RecipeError, match=r"distillation.cache: .* draws input_ids, labels anew at each pass"):
        refuse_redrawn(task, task.train())
    steady = causal(decoder, tmp_path, blocks=False)
    refuse_redrawn(steady, steady.train())


def test_how_many_are_masked_replaced_and_left(folders, tmp_path):
    """Of 8,400 tokens to predict; special ones are never among them."""
    texts = [" ".join("abcdef"[index % 6] for index in range(28))] * 2000
    task = masked(folders["bert"], tmp_path, texts, blocks=False)
    batch = task.collate(list(task.train()))
    labels, ids = batch["labels"], batch["input_ids"]
    chosen = labels != -100
    truth = torch.tensor([START, *[5 + index % 6 for index in range(28)], END]).expand_as(ids)
    assert torch.equal(ids[~chosen], truth[~chosen])
    assert torch.equal(labels[chosen], truth[chosen])
    assert not chosen[:, [0, -1]].any()
    ordinary = chosen[:, 1:-1].float().mean().item()
    assert ordinary == pytest.approx(0.15, abs=0.006)
    masks = (ids[chosen] == MASK).float().mean().item()
    kept = (ids[chosen] == labels[chosen]).float().mean().item()
    lucky = 0.1 / len(writers.WORDS)  # a random token may be the mask, or the one that was there
    assert masks == pytest.approx(0.8 + lucky, abs=0.02)
    assert kept == pytest.approx(0.1 + lucky, abs=0.02)


def test_a_short_text_has_something_to_predict(folders, tmp_path):
    task = masked(folders["bert"], tmp_path, ["a", "b", "c"], blocks=False, masked_share=0.01)
    model = task.load_model(folders["bert"])
    assert model(**task.collate(list(task.train())[:1])).loss.isfinite()
    assert all((task.collate([row])["labels"] != -100).sum() == 1 for row in task.validation())


def test_heads(folders, tmp_path):
    task = masked(folders["bert"], tmp_path)
    assert task.has_trained_head(folders["bert"])
    assert not causal(folders["opt"], tmp_path).has_trained_head(folders["bert"])
    assert causal(folders["opt"], tmp_path).has_trained_head(folders["llama"])


def test_a_checkpoint_without_the_head_gets_one(folders, tmp_path):
    """As those of a bare model, or of the class for pretraining."""
    for trained in (BertModel, BertForPreTraining):
        folder = writers.save(tmp_path / trained.__name__, trained(writers.bert().config))
        task = masked(folder, tmp_path)
        assert not task.has_trained_head(folder)
        assert type(task.load_model(folder)) is BertForMaskedLM


def test_a_tokenizer_whose_frame_cannot_be_told_is_refused(folders, tmp_path, monkeypatch):
    def otherwise_in_a_frame(self, text, *, add_special_tokens=True, **others):
        return {"input_ids": [START, 8, END] if add_special_tokens else [5]}

    task = causal(folders["opt"], tmp_path)
    monkeypatch.setattr(type(task.processor), "__call__", otherwise_in_a_frame)
    with pytest.raises(ModelError, match="which tokens stand before and behind a text cannot be told"):
        task.train()


def test_models_that_cannot_are_refused(folders, tmp_path):
    with pytest.raises(ModelError, match=r"is a bert whose tokens see those that follow.* use the task masked-lm"):
        causal(folders["bert"], tmp_path)
    with pytest.raises(ModelError, match="is a llama, which AutoModelForMaskedLM does not load"):
        masked(folders["llama"], tmp_path)
    maskless = writers.save(tmp_path / "maskless", writers.bert(), writers.tokenizer(mask=None))
    with pytest.raises(ModelError, match="no mask token; use the task causal-lm"):
        masked(maskless, tmp_path)
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, is_decoder=True
    )
    assert causal(writers.save(tmp_path / "decoder", BertLMHeadModel(config)), tmp_path).train()


def test_the_text_column_and_its_faults(folders, tmp_path):
    file = writers.write(tmp_path / "n.jsonl", number=[1, 2], line=["a b", "c d"])
    section = LanguageModelingConfig(train_file=file, validation_file=file)
    assert CausalLanguageModeling(section, folders["llama"]).train()["input_ids"][0][:2] == [5, 6]
    file = writers.write(tmp_path / "two.jsonl", line=["a", "b"], other=["a", "b"])
    with pytest.raises(DataError, match=r"several columns could be the text: line, other; .*--column text=NAME"):
        CausalLanguageModeling(LanguageModelingConfig(train_file=file), folders["llama"])
    with pytest.raises(DataError, match=r"no text in row 2 \(column 'text'\)"):
        causal(folders["llama"], tmp_path, ["a", None])
    with pytest.raises(DataError, match="its texts are too short"):
        causal(folders["llama"], tmp_path, ["a", "b"], blocks=False, separator="").train()


@needs_data
def test_real_speeches(folders):
    section = LanguageModelingConfig(
        train_file=DATA / "shakespeare-train.parquet",
        validation_file=DATA / "shakespeare-validation.parquet",
        max_validation_samples=20,
        max_length=32,
    )
    task = CausalLanguageModeling(section, folders["opt"])
    found = figures(task, task.load_model(folders["opt"]).eval(), [5, 1000])
    assert 1 < found["perplexity"] < 1000
