"""A compact decoder generates what the masked one does, with every kind of cache, also where layers have no head."""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.loading import structure_of
from prune_core.saving import save_compact
from prune_core.structure import Attention
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import GENERATING, tiny_inputs, tiny_model

PROMPT = torch.tensor([[5, 9, 17, 33, 4, 21, 60, 12, 40, 2], [0, 0, 0, 7, 30, 11, 55, 8, 19, 2]])
ATTENDED = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])
LENGTH = 8
ATOL = 1e-5

KEPT = {
    "uneven": uneven,
    "first layer empty": lambda model: {key: [] for key in structure_of(model).keys() if "layer.0." in key},
    "no attention": lambda model: {unit.key: [] for unit in structure_of(model).units if isinstance(unit, Attention)},
}


def prompts(model):
    """Two of them, one padded at its left; sounds for a model that takes them."""
    if model.main_input_name == "input_features":
        return tiny_inputs(model, batch=2)["input_features"], {}
    return PROMPT, {"attention_mask": ATTENDED}


def generated(model, **options):
    """Greedy tokens after two prompts, and the logits of each step."""
    inputs, masks = prompts(model)
    length = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH}
    record = {"return_dict_in_generate": True, "output_logits": True}
    found = model.generate(inputs, do_sample=False, **masks, **length, **record, **options)
    return found.sequences, torch.stack(found.logits)


def check(found, expected):
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=ATOL, rtol=ATOL)


@pytest.fixture(params=GENERATING)
def dense(request):
    return tiny_model(request.param, layers=3)


@pytest.mark.parametrize("kept", KEPT)
def test_the_same_tokens_whatever_the_cache(dense, kept):
    kept = KEPT[kept](dense)
    masks = unit_masks(dense, lambda unit: kept.get(unit.key))
    masked, smaller = copy.deepcopy(dense), compact(dense, masks).model
    masks.bake(masked)
    expected = generated(masked, use_cache=False)
    assert (expected[1] - generated(dense)[1]).abs().max() > 0.1, "the masks must matter"
    for options in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        check(generated(smaller, **options), expected)
    check(generated(smaller, num_beams=2), generated(masked, num_beams=2))


def test_the_same_tokens_from_a_folder(dense, tmp_path):
    kept = uneven(dense)
    compaction = compact(dense, unit_masks(dense, lambda unit: kept[unit.key]))
    save_compact(compaction, tmp_path / "model")
    again = type(dense).from_pretrained(tmp_path / "model")
    check(generated(again), generated(compaction.model))
