"""Masks that were saved with the units of their model do not fit another one, whatever its names and shapes."""

import pytest
import torch

from prune_core.compaction import compact
from prune_core.errors import MaskError
from prune_core.folders.loading import structure_of
from prune_core.granularity import Element
from prune_core.masks import Mask, MaskSet
from prune_core.testing.sample_masks import random_masks
from prune_core.testing.tiny import tiny_model


def test_they_are_saved_and_loaded(tmp_path):
    masks = MaskSet({"w": Mask(Element(), torch.ones(2, 2, dtype=torch.bool), (2, 2))})
    masks.save(tmp_path / "with", {"layer.0.ffn": 2})
    masks.save(tmp_path / "without")
    assert MaskSet.load(tmp_path / "with").units == {"layer.0.ffn": 2}
    assert MaskSet.load(tmp_path / "without").units is None


def test_a_model_of_more_layers_is_another_one(tmp_path):
    small, large = tiny_model("bert", layers=2), tiny_model("bert", layers=3)
    masks = random_masks(small, "head")
    masks.save(tmp_path / "masks", structure_of(small).sizes())
    masks.save(tmp_path / "unknown")
    compact(small, MaskSet.load(tmp_path / "masks"))
    with pytest.raises(
        MaskError, match=r"those of another model: it has no heads or neurons in layer\.2\.attention, this one 4"
    ):
        compact(large, MaskSet.load(tmp_path / "masks"))
    compact(large, MaskSet.load(tmp_path / "unknown"))


def test_a_damaged_note_is_a_damaged_file(tmp_path):
    MaskSet({}).save(tmp_path / "masks", {"layer.0.ffn": 2})
    content = (tmp_path / "masks").read_bytes()
    (tmp_path / "masks").write_bytes(content.replace(b'{\\"layer.0.ffn\\": 2}', b"17                 "))
    with pytest.raises(MaskError, match="damaged"):
        MaskSet.load(tmp_path / "masks")
