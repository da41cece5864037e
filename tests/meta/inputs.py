"""What the documentation takes for granted: ./my-bert, train.csv and validation.csv, tiny and with few words."""

import csv
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prune_core.testing.tiny import tiny_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "great", "bad", "awful", "a", "the", "film", "very"]
LABELS = {"good": "positive", "great": "positive", "bad": "negative", "awful": "negative"}


def write_inputs(folder: Path) -> Path:
    """Write them to `folder`, and return it."""
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
