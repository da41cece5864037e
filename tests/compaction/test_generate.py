"""A compact decoder searches with beams as the masked one does, and generates the same from a folder.

That it generates the same tokens greedily, with every kind of cache, is in the contract of families.
"""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.folders.saving import save_compact
from prune_core.testing.capabilities import Sample, generated
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import GENERATING, tiny_inputs, tiny_model

ATOL = 1e-5


def found(model, **options):
    return generated(Sample(model, tiny_inputs), model, **options)


def check(found, expected):
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=ATOL, rtol=ATOL)


@pytest.fixture(params=GENERATING)
def dense(request):
    return tiny_model(request.param, layers=3)


def test_the_same_beams(dense):
    kept = uneven(dense)
    masks = unit_masks(dense, lambda unit: kept[unit.key])
    masked, smaller = copy.deepcopy(dense), compact(dense, masks).model
    masks.bake(masked)
    check(found(smaller, num_beams=2), found(masked, num_beams=2))


def test_the_same_tokens_from_a_folder(dense, tmp_path):
    kept = uneven(dense)
    compaction = compact(dense, unit_masks(dense, lambda unit: kept[unit.key]))
    save_compact(compaction, tmp_path / "model")
    again = type(dense).from_pretrained(tmp_path / "model")
    check(found(again), found(compaction.model))
