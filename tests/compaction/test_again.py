"""A compact model can be compacted again: sizes compose, and the folder still tells which of the dense heads stayed."""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.masks import MaskSet
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

FIRST = {
    "layer.0.attention": [0, 2, 3],
    "layer.0.ffn": list(range(10, 50)),
    "layer.1.attention": [1, 3],
    "layer.1.ffn": [],
}
SECOND = {"layer.0.attention": [1, 2], "layer.0.ffn": [0, 39], "layer.1.attention": []}


def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model)).logits


def keeping(model, kept):
    return unit_masks(model, lambda unit: kept.get(unit.key))


def reloaded(model, folder):
    return type(model).from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(params=["bert", "distilbert", "vit"])
def model(request):
    return tiny_model(request.param)


@pytest.mark.parametrize("through_a_folder", [False, True])
def test_sizes_compose_and_reload(model, through_a_folder, tmp_path):
    once = compact(model, keeping(model, FIRST))
    smaller = once.model
    if through_a_folder:
        save_compact(once, tmp_path / "once")
        smaller = reloaded(model, tmp_path / "once")
    masks = keeping(smaller, SECOND)
    masked = copy.deepcopy(smaller)
    masks.bake(masked)
    twice = compact(smaller, masks)
    torch.testing.assert_close(logits(twice.model), logits(masked), atol=1e-5, rtol=0)
    assert {unit.key: list(unit.kept) for unit in twice.units} == SECOND
    assert twice.model.config.quantization_config.units == {
        "layer.0.attention": {"kept": [2, 3], "of": 4},
        "layer.0.ffn": {"kept": 2, "of": 64},
        "layer.1.attention": {"kept": [], "of": 4},
        "layer.1.ffn": {"kept": 0, "of": 64},
    }
    save_compact(twice, tmp_path / "twice")
    again = reloaded(model, tmp_path / "twice")
    assert torch.equal(logits(again), logits(twice.model))
    # the first compaction still says what it said
    assert once.model.config.quantization_config.units["layer.0.attention"] == {"kept": [0, 2, 3], "of": 4}


@pytest.mark.parametrize(
    "family",
    ["bart", "t5", "flan-t5", "opt", "qwen2", "whisper", "phi", "albert", "deberta-v2", "mpnet", "swin", "clip"]
    + ["gpt2", "phi3", "deberta"],
)
def test_heads_are_counted_from_the_dense_model(family, tmp_path):
    """The last head that is left of each unit; T5 and MPNet find its position bias by its number in the dense model."""
    model = tiny_model(family, layers=4)
    first = uneven(model)
    once = compact(model, keeping(model, first)).model
    masks = unit_masks(once, lambda unit: [len(first[unit.key]) - 1] if unit.linears() else None)
    masked = copy.deepcopy(once)
    masks.bake(masked)
    twice = compact(once, masks)
    for found, expected in zip(everything(twice.model), everything(masked), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    units = twice.model.config.quantization_config.units
    assert {unit.key: units[unit.key]["kept"] for unit in structure_of(model).attention} == {
        unit.key: first[unit.key][-1:] for unit in structure_of(model).attention
    }
    save_compact(twice, tmp_path / "twice")
    again = everything(reloaded(model, tmp_path / "twice"))
    assert all(torch.equal(one, other) for one, other in zip(again, everything(twice.model), strict=True))


def test_a_stub_is_no_unit_to_prune(model):
    once = compact(model, keeping(model, FIRST)).model
    empty = structure_of(once).unit("layer.1.ffn")
    assert (empty.size, empty.linears()) == (0, {})
    assert [unit.key for unit in compact(once, MaskSet({})).units] == list(SECOND)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_sparse_and_dense_compactions_follow_each_other(model, first, second, tmp_path):
    """A model loaded from packed weights, compacted by other masks, is written as those masks say."""
    once = compact(model, MaskSet(random_masks(model, "block", seed=1), sparse=first))
    save_compact(once, tmp_path / "once")
    smaller = reloaded(model, tmp_path / "once")
    twice = compact(smaller, MaskSet(random_masks(smaller, "element", seed=2), sparse=second))
    expected = logits(twice.model)
    save_compact(twice, tmp_path / "twice")
    assert torch.equal(logits(reloaded(model, tmp_path / "twice")), expected)
    twice.model.save_pretrained(tmp_path / "plain")
    assert torch.equal(logits(reloaded(model, tmp_path / "plain")), expected)
