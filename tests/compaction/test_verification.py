"""What is proven of a compact model: how far it may be from the masked one, by what it puts out and in which dtype."""

import copy

import pytest
import torch
from torch.nn.functional import normalize
from transformers import BertModel
from transformers.modeling_outputs import BaseModelOutput

from prune_core.compaction import compact
from prune_core.errors import VerificationError
from prune_core.folders.loading import structure_of
from prune_core.testing.head_classes import tiny_head
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.verification.verify import Expected, Verification, expect, outputs, verify

HALF = [torch.bfloat16, torch.float16]


class Embedder(BertModel):
    """Puts out one vector a text, of length 1."""

    def forward(self, input_ids, attention_mask):
        hidden = super().forward(input_ids, attention_mask=attention_mask).last_hidden_state
        return BaseModelOutput(normalize(hidden.mean(dim=1), dim=-1))


def embedder(dtype):
    return tiny_head(Embedder, tiny_model("bert", layers=4).config).eval().to(dtype)


def batch():
    return {name: tiny_inputs(tiny_model("bert"))[name] for name in ("input_ids", "attention_mask")}


def without(model, unit, gone):
    """Masks that leave out this head or neuron of a unit."""
    return unit_masks(model, lambda one: None if one.key != unit.key else set(range(one.count)) - {gone})


@pytest.mark.parametrize("dtype", HALF)
def test_a_wrong_model_of_unit_embeddings_is_seen(dtype):
    """Its outputs are so small that every one of them is within a tenth of 0."""
    model = embedder(dtype)
    unit = structure_of(model).attention[1]
    masks = without(model, unit, 0)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    expected = expect(masked, [batch()])
    assert verify(expected, compact(model, masks), [batch()]).passed
    wrong = verify(expected, compact(model, without(model, unit, 1)), [batch()])
    assert 2 * wrong.tolerance < wrong.masked_vs_compact < 0.1
    assert not wrong.passed


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_infinite_outputs_hide_nothing(dtype):
    """Logits that a model sets to -inf are equal to themselves, and neither allow nor make a difference elsewhere."""
    whole = torch.tensor([1.0, -torch.inf, 2.0])
    expected = Expected.of([whole], dtype)
    assert expected.furthest([whole.clone()])[0] == 0
    for wrong in ([1.0, -torch.inf, 2.5], [torch.nan, -torch.inf, 2.0], [1.0, torch.inf, 2.0], [1.0, 0.0, 2.0]):
        difference, allowed = expected.furthest([torch.tensor(wrong)])
        assert not difference <= allowed
    found = Verification(difference, 0.0, allowed, 1)
    assert not found.passed
    with pytest.raises(VerificationError, match=r"masked - compact inf .* outputs of one are not finite numbers"):
        found.enforce()


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_compared_in_float32(dtype):
    """With the weights as they are, which no copy of the model is made for: of its layers one at a time is wide."""
    model = embedder(dtype)
    before = {name: one.data_ptr() for name, one in model.named_parameters()}
    wide = []
    layer = model.encoder.layer[2]
    layer.register_forward_hook(lambda *_: wide.extend(one.dtype for one in model.encoder.layer.parameters()))
    expected = expect(model, [batch()])
    own = len(list(layer.parameters()))
    assert wide.count(torch.float32) == own
    assert wide.count(dtype) == 3 * own
    exact = copy.deepcopy(model).float()
    torch.testing.assert_close(expected.outputs, outputs(exact, [batch()]), atol=1e-6, rtol=0)
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == before
    assert {one.dtype for one in model.parameters()} == {dtype}


def test_what_fails_while_it_computes_in_float32_leaves_the_model_as_it_was():
    model = embedder(torch.bfloat16)
    model.encoder.layer[1].attention.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        expect(model, [batch()])
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


def test_parameters_are_copied_once_and_only_where_they_lie_askew():
    model = embedder(torch.float32)
    weight = model.encoder.layer[0].intermediate.dense.weight
    whole, expected = weight.detach().clone(), outputs(model, [batch()])
    weight.data = torch.empty(weight.numel() + 1)[1:].view(weight.shape).copy_(whole)
    assert weight.data_ptr() % 64
    others = {name: one.data_ptr() for name, one in model.named_parameters() if one is not weight}
    found = outputs(model, [batch()])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not weight.data_ptr() % 64
    assert {name: one.data_ptr() for name, one in model.named_parameters() if one is not weight} == others
    place = weight.data_ptr()
    outputs(model, [batch()])
    assert weight.data_ptr() == place


def test_the_tolerance_is_that_of_each_output():
    """A large one hides no small one, and what is no number is never allowed."""
    expected = Expected([torch.ones(3) * 100, torch.ones(3)], [1.0, 0.01])
    assert expected.furthest([torch.ones(3) * 100.5, torch.ones(3) * 1.5]) == (0.5, 0.01)
    assert expected.furthest([torch.ones(3) * 103, torch.ones(3)]) == (3.0, 1.0)
    model = embedder(torch.bfloat16)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(torch.nan)
    difference, allowed = expect(model, [batch()]).furthest(outputs(model, [batch()]))
    assert not difference <= allowed
