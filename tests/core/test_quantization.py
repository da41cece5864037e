"""What is trained for int8 is what torchao computes, on compact models too."""

from functools import partial

import pytest
import torch
from torch import nn

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.rewriting.quantization import int8, rounded, rounding
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

pytest.importorskip("torchao")


def compacted(family):
    """A model with units of other sizes, stubs among them."""
    model = tiny_model(family)
    kept = uneven(model)
    smaller = compact(model, unit_masks(model, lambda unit: kept[unit.key])).model.eval()
    return smaller, structure_of(smaller).left_in(smaller)


def test_rounding_is_that_of_a_plain_loop():
    """Symmetric, by row: scale max|x| / 127.5, integers -128 to 127."""
    values = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    for row, found in zip(values.flatten(0, 1), rounded(values).flatten(0, 1), strict=True):
        scale = float(row.abs().max()) / 127.5
        expected = [max(-128, min(127, round(float(x) / scale))) * scale for x in row]
        assert found.tolist() == pytest.approx(expected, abs=1.01 * scale)  # a half may go either way
        assert sum(abs(a - b) > 1e-6 for a, b in zip(found.tolist(), expected, strict=True)) <= 1


def test_the_gradient_passes_straight_through():
    values = torch.randn(4, 8, requires_grad=True)
    (rounded(values) * torch.arange(8)).sum().backward()
    assert torch.equal(values.grad, torch.arange(8.0).expand(4, 8))


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@torch.no_grad()
def test_a_compact_model_computes_in_int8_as_it_was_trained(family):
    """Layer by layer, of equal inputs: through a whole model one rounding that goes the other way spreads."""
    model, layers = compacted(family)
    batch, seen = tiny_inputs(model), {}
    smaller = int8(model, layers)
    for name in layers:
        hook = partial(lambda name, module, inputs, output: seen.update({name: (inputs[0], output)}), name)
        model.get_submodule(name).register_forward_hook(hook)
    plain = model(**batch).logits
    with rounding(model, layers):
        trained = model(**batch).logits
    assert seen.keys() == set(layers)
    for name, (inputs, output) in seen.items():
        assert torch.allclose(smaller.get_submodule(name)(inputs), output, rtol=1e-5, atol=1e-5), name
    assert (trained - plain).abs().max() > 1e-3, "rounding is felt"
    assert (smaller(**batch).logits - trained).abs().median() < (trained - plain).abs().median()


def test_by_default_it_takes_what_was_trained_for_it():
    """Not the head."""
    model, layers = compacted("bert")
    smaller = int8(model)
    changed = {
        name for name, layer in smaller.named_modules() if "Int8" in type(getattr(layer, "weight", None)).__name__
    }
    assert changed == set(layers)


@torch.no_grad()
def test_the_model_is_as_it_was_afterwards():
    model, layers = compacted("bert")
    batch = tiny_inputs(model)
    plain, names = model(**batch).logits, list(model.state_dict())
    with rounding(model, layers):
        assert list(model.state_dict()) == names
    int8(model, layers)
    assert all(type(model.get_submodule(name)) is nn.Linear for name in layers)
    assert torch.equal(model(**batch).logits, plain)
