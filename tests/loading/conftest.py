"""Folders of compact models, dense and sparse, with their processors; made once, copied where a test changes them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedModel, ViTImageProcessor

from prune_core.compaction import compact
from prune_core.masks import MaskSet
from prune_core.saving import save_compact
from prune_core.testing.sample_masks import random_masks, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

KEPT = {
    "layer.0.attention": [0, 2],
    "layer.0.ffn": [3, 5, 7, 60, 63],
    "layer.1.attention": [],
    "layer.1.ffn": list(range(20, 51)),
    "layer.2.attention": [3],
    "layer.2.ffn": [],
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the", "very", "lon", "##g", "##er"]


@dataclass(frozen=True)
class Compact:
    """A folder and the model in memory that was written to it."""

    folder: Path
    model: PreTrainedModel


def make(folder, family, *, sparse):
    model = tiny_model(family, layers=3)
    if sparse:
        masks = MaskSet(random_masks(model, "block"), sparse=True)
    else:
        masks = unit_masks(model, lambda unit: KEPT[unit.key])
    compaction = compact(model, masks)
    save_compact(compaction, folder, image_processor() if family in ("vit", "deit") else tokenizer())
    return Compact(folder, compaction.model)


def tokenizer():
    words = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=words, model_max_length=64)


def image_processor():
    size = {"height": 8, "width": 8}
    return ViTImageProcessor(do_resize=False, do_convert_rgb=False, image_mean=[0.5], image_std=[0.5], size=size)


@pytest.fixture(scope="session")
def compact_folder(tmp_path_factory):
    """`compact_folder(family, sparse=False)`: a Compact, not to be changed."""
    made = {}

    def get(family, *, sparse=False):
        if (family, sparse) not in made:
            made[family, sparse] = make(tmp_path_factory.mktemp("compact") / family, family, sparse=sparse)
        return made[family, sparse]

    return get


@pytest.fixture
def own_folder(compact_folder, tmp_path):
    """The same as a copy that a test may damage."""

    def get(family="bert", *, sparse=False):
        return Path(shutil.copytree(compact_folder(family, sparse=sparse).folder, tmp_path / "copy"))

    return get


@pytest.fixture(scope="session")
def answers():
    """`answers(model)`: everything that the model returns for a fixed batch, in evaluation mode."""

    def get(model, **options):
        inputs = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            found = model.eval()(**inputs, **options)
        return {name: value for name, value in found.items() if value is not None}

    return get


@pytest.fixture(scope="session")
def same(answers):
    """`same(one, other)`: whether two models answer the same, bit for bit."""

    def get(one, other):
        a, b = answers(one, output_hidden_states=True), answers(other, output_hidden_states=True)
        flat_a = [a["logits"], *a["hidden_states"]] if "logits" in a else [*a["hidden_states"]]
        flat_b = [b["logits"], *b["hidden_states"]] if "logits" in b else [*b["hidden_states"]]
        return len(flat_a) == len(flat_b) and all(torch.equal(x, y) for x, y in zip(flat_a, flat_b, strict=True))

    return get
