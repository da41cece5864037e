"""Weights that several layers hold: refused before anything is trained, for a mask goes by the name of one."""

import pytest
from torch import nn

from prune_core.errors import StructureError
from prune_core.pruning import Pruning
from prune_core.testing.tiny import tiny_model
from tests.core.loops import STRATEGIES, Training, small_units


@pytest.fixture
def tied():
    """Layer 1 uses the queries of layer 0."""
    model = small_units()
    first, second = (layer.attention.self.query for layer in model.bert.encoder.layer)
    second.weight = first.weight
    return model


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("exclude", [(), ("layer.0.attention",), ("layer.1.attention",)])
def test_linears_of_one_parameter_are_refused(strategy, exclude, tied):
    said = r"layer\.0\.attention\.self\.query and .*layer\.1\.attention\.self\.query hold the same parameter"
    with pytest.raises(StructureError, match=said):
        Pruning(tied, strategy, total_steps=4, density=0.5, exclude=exclude)
    assert all(type(module) is nn.Linear for module in tied.modules() if isinstance(module, nn.Linear))


def test_they_may_be_left_alone(tied):
    Training(tied, "structured", 4, density=0.8, exclude=("*.attention",)).run().pruning.finish()


def test_layers_that_are_one_module_are_pruned_as_one():
    Training(tiny_model("albert"), "structured", 4, density=0.5).run().pruning.finish()
