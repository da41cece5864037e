"""Tokenizers and processors go along: loaded where they can be, else as the files that they are, with a warning."""

import json
import logging
import shutil

import pytest
from transformers import AutoTokenizer, ViTImageProcessorPil

from prune_core.exporting import Wanted, export_folder
from prune_core.folders.compacting import compact_folder
from prune_core.folders.processors import find_processor
from prune_core.recipe import MeasureSection
from prune_core.testing.sample_masks import random_masks
from prune_core.testing.tiny import tiny_model
from tests.meta.inputs import write_inputs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("processors"))


@pytest.fixture
def folder(root, tmp_path):
    """A model and masks for it; what reads its texts is put there by the test."""
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "model")
    random_masks(model, "neuron").save(tmp_path / "masks.safetensors")
    return tmp_path / "model"


def needs_sentencepiece(folder):
    """As T5's or ALBERT's own folders are: a vocabulary that only a package reads that is not there."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    (folder / "spiece.model").write_bytes(b"a vocabulary")
    (folder / "special_tokens_map.json").write_text("{}")


def compacted(folder, tmp_path):
    compact_folder(folder, tmp_path / "masks.safetensors", tmp_path / "small")
    return tmp_path / "small"


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_tokenizer_that_cannot_be_loaded_goes_along_as_it_is(folder, tmp_path, caplog):
    needs_sentencepiece(folder)
    small = compacted(folder, tmp_path)
    for name in ("tokenizer_config.json", "spiece.model", "special_tokens_map.json"):
        assert (small / name).read_bytes() == (folder / name).read_bytes()
    (line,) = [line for line in warnings(caplog) if "cannot be loaded" in line]
    assert line.startswith(f"{folder}: its tokenizer cannot be loaded (")
    assert "\n" not in line


def test_so_it_does_with_an_export(folder, tmp_path):
    needs_sentencepiece(folder)
    quick = MeasureSection(batch_size=1, length=4, rounds=3)
    export_folder(str(folder), tmp_path / "out", Wanted("torch-export", measure=quick))
    assert (tmp_path / "out" / "spiece.model").read_bytes() == b"a vocabulary"


def test_one_that_can_be_loaded_is_saved_without_a_word(root, folder, tmp_path, caplog):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(root / "my-bert" / name, folder)
    small = compacted(folder, tmp_path)
    again, before = (AutoTokenizer.from_pretrained(place)("a very good film").input_ids for place in (small, folder))
    assert again == before
    assert not warnings(caplog)


def test_a_folder_without_any_is_no_reason_to_warn(folder, tmp_path, caplog):
    assert find_processor(folder) is None
    assert not {path.name for path in compacted(folder, tmp_path).iterdir()} & {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not warnings(caplog)


def test_what_reads_images_does_not_hide_a_tokenizer_that_cannot_be_loaded(folder, tmp_path, caplog):
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    assert type(find_processor(folder)) is ViTImageProcessorPil
    assert not warnings(caplog)
    needs_sentencepiece(folder)
    find_processor(folder).save_pretrained(tmp_path)
    assert {"preprocessor_config.json", "spiece.model"} <= {path.name for path in tmp_path.iterdir()}
    assert "its tokenizer cannot be loaded" in warnings(caplog)[0]
