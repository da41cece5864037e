"""The commands of the README, run as written, on a tiny model and a few sentences."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prune_core.testing.tiny import tiny_model
from tests.meta.test_readme import README, commands

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "great", "bad", "awful", "a", "the", "film", "very"]
LABELS = {"good": "positive", "great": "positive", "bad": "negative", "awful": "negative"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README takes for granted: ./my-bert, train.csv and validation.csv."""
    folder = tmp_path_factory.mktemp("readme")
    labels = dict(enumerate(sorted(set(LABELS.values()))))
    sizes = {"hidden_size": 64, "max_position_embeddings": 128, "num_labels": len(labels)}
    model = tiny_model("bert", heads=2, **sizes)
    model.config.id2label = labels
    model.config.label2id = {label: index for index, label in labels.items()}
    model.save_pretrained(folder / "my-bert")
    _tokenizer().save_pretrained(folder / "my-bert")
    for name, count in (("train", 96), ("validation", 32)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *_rows(count)])
    return folder


@pytest.mark.timeout(1200)
def test_commands_run_in_order(folder: Path) -> None:
    for words in commands(README):
        done = _prune(folder, *words)
        assert done.returncode == 0, f"prune {' '.join(words)}: {done.stderr}"
    assert (folder / "runs" / "sentiment" / "model" / "config.json").is_file()


def _rows(count: int) -> list[tuple[str, str]]:
    draw = random.Random(count)
    return [(f"a very {word} film", LABELS[word]) for word in draw.choices(list(LABELS), k=count)]


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=inputs, **special)


def _prune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    command = [str(Path(sys.executable).with_name("prune")), *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
