"""A layout that no family of ours vouches for is tried before anything is trained by it, in anyone's own loop too."""

import pytest
import torch

from prune_core import Pruning
from prune_core.errors import StructureError
from prune_core.measure import dummy_inputs
from prune_core.testing.tiny import tiny_inputs, tiny_model
from tests.compaction.test_discovery import tiny


@pytest.mark.parametrize("family", ["ernie", "m2m_100"])
def test_a_layout_that_is_right_is_trained_by(family):
    model = tiny(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Pruning(model, "structured", total_steps=2, density=0.5)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("offered", [False, True], ids=["random texts", "calibration"])
def test_a_misread_model_is_refused_before_it_is_trained(offered):
    model = tiny("big_bird")
    batches = [dummy_inputs(model, 2, 8)] if offered else []
    with pytest.raises(StructureError, match=r"cannot be compacted by the layout that was found .* on a trial"):
        Pruning(model, "structured", total_steps=2, density=0.5, calibration=lambda: batches)
    assert not [name for name, _ in model.named_parameters() if "score" in name], "nothing was attached"


def test_what_is_tried_is_the_first_batch_that_is_offered(monkeypatch):
    tried = []
    monkeypatch.setattr("prune_core.pruning.prove", lambda model, structure, batch: tried.append(batch))
    model = tiny("ernie")
    batch = tiny_inputs(model)
    Pruning(model, "structured", total_steps=2, density=0.5, calibration=lambda: [batch, {}])
    assert tried == [batch]
    Pruning(tiny_model("bert"), "structured", total_steps=2, density=0.5)
    assert len(tried) == 1, "our own families are vouched for by their tests"
