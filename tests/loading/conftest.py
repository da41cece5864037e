"""Folders of compact models, dense and sparse, with their processors; made once, copied where a test changes them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedModel, ViTImageProcessor

from prune_core.compaction import compact
from prune_core.folders.saving import save_compact
from prune_core.masks import MaskSet
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

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
        kept = uneven(model)
        masks = unit_masks(model, lambda unit: kept[unit.key])
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
def same():
    """`same(one, other)`: whether two models answer the same, bit for bit."""

    def get(one, other):
        for parameter in (*one.parameters(), *other.parameters()):
            parameter.data = parameter.data.clone()  # kernels round by how memory is aligned: a mapped file's is not
        a, b = everything(one), everything(other)
        return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    return get
