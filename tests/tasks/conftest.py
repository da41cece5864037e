"""Tiny models with their processors, made anew, and a cache of data sets that is thrown away."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "very", "long"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=inputs, **special)


@pytest.fixture
def text_model(tmp_path: Path) -> Callable[..., str]:
    """Makes the folder of a tiny BERT: with a head for `labels`, or, without, with one for masked words."""

    def make(labels: list[str] | None = None, name: str = "model", head=BertForSequenceClassification, **others) -> str:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **sizes, **others)
        if labels is not None:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
        model = BertForMaskedLM(config) if labels is None else head(config)
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def tagger(text_model) -> Callable[..., str]:
    """Makes the folder of a tiny BERT with a head that tags tokens with these labels."""
    return partial(text_model, head=BertForTokenClassification)


@pytest.fixture
def chooser(text_model) -> Callable[..., str]:
    """Makes the folder of a tiny BERT with a head that scores choices."""
    return partial(text_model, [], head=BertForMultipleChoice)


@pytest.fixture
def image_model(tmp_path: Path) -> Callable[..., str]:
    """Makes the folder of a tiny ViT for 8x8 images, with its image processor."""

    def make(labels: int = 2, channels: int = 3) -> str:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = ViTConfig(image_size=8, patch_size=2, num_channels=channels, num_labels=labels, **sizes)
        ViTForImageClassification(config).save_pretrained(tmp_path / "model")
        processor = ViTImageProcessor(
            do_resize=False, image_mean=[0.5] * channels, image_std=[0.5] * channels, size={"height": 8, "width": 8}
        )
        processor.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return make
