"""Decoders without a padding token, as GPT-2 and LLaMA are: their texts fill batches all the same."""

from pathlib import Path

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2Model,
)

from prune_core.errors import ModelError
from prune_core.tasks import config
from prune_core.tasks.question_answering import QuestionAnswering
from prune_core.tasks.sentence_embedding import SentenceEmbedding
from prune_core.tasks.text_classification import TextClassification
from prune_core.tasks.token_classification import TokenClassification
from tests.tasks.writers import END, WORDS, save, tokenizer, write

TEXTS = ["a b c d e .", "f a"]


def decoder(folder: Path, kind=GPT2ForSequenceClassification, **tokens) -> str:
    sizes = {"n_embd": 16, "n_inner": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    model = kind(GPT2Config(vocab_size=len(WORDS), num_labels=2, bos_token_id=1, eos_token_id=END, **sizes))
    return save(folder / "model", model, tokenizer(behind="", **{"pad": "", **tokens}))


def test_texts_of_a_batch_are_classified_as_each_by_itself(tmp_path, caplog):
    caplog.set_level("INFO")
    file = write(tmp_path / "train.jsonl", text=TEXTS, label=[0, 1])
    path = decoder(tmp_path)
    task = TextClassification(config.TextClassificationConfig(train_file=file, validation_file=file), path)
    assert "model has no padding token: texts are padded by '</s>', which ends them" in caplog.text
    model, features = task.load_model(path).eval(), list(task.train())
    assert model.config.pad_token_id == END
    both = model(**task.collate(features)).logits
    alone = torch.cat([model(**task.collate([feature])).logits for feature in features])
    torch.testing.assert_close(both, alone)


def test_a_padding_token_that_only_the_tokenizer_knows_is_told_to_the_model(tmp_path):
    file = write(tmp_path / "train.jsonl", text=TEXTS, label=[0, 1])
    path = decoder(tmp_path, pad="<pad>")
    task = TextClassification(config.TextClassificationConfig(train_file=file, validation_file=file), path)
    assert task.load_model(path).config.pad_token_id == 0


def test_words_pairs_and_contexts_are_padded(tmp_path):
    words = write(tmp_path / "words.jsonl", tokens=[text.split() for text in TEXTS], tags=[[0] * 6, [1, 0]])
    pairs = write(tmp_path / "pairs.jsonl", one=TEXTS, other=TEXTS[::-1], score=[0.5, 1.0])
    answers = [{"text": ["a"], "answer_start": [TEXTS[0].index("a")]}, {"text": ["f"], "answer_start": [0]}]
    asked = write(tmp_path / "asked.jsonl", id=["1", "2"], question=["a", "b"], context=TEXTS, answers=answers)
    for section, task, head, file in (
        (config.TokenClassificationConfig, TokenClassification, GPT2ForTokenClassification, words),
        (config.SentenceEmbeddingConfig, SentenceEmbedding, GPT2Model, pairs),
        (config.QuestionAnsweringConfig, QuestionAnswering, GPT2ForQuestionAnswering, asked),
    ):
        found = task(section(train_file=file, validation_file=file), decoder(tmp_path, head))
        batch = found.collate([found.train()[0], found.train()[1]])
        assert (batch["input_ids"][batch["attention_mask"] == 0] == END).all()
        assert not batch["attention_mask"].all()


def test_a_tokenizer_without_an_end_either_is_refused(tmp_path):
    file = write(tmp_path / "train.jsonl", text=TEXTS, label=[0, 1])
    with pytest.raises(ModelError, match=r"model: its tokenizer has no padding token, and none that ends a text to"):
        TextClassification(config.TextClassificationConfig(train_file=file), decoder(tmp_path, eos=""))
