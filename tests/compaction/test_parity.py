"""The compact model computes what the masked one does, in every family and with every layer of another size."""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.granularity import Column
from prune_core.loading import structure_of
from prune_core.masks import Mask, MaskSet
from prune_core.structure import Attention
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import FAMILIES, tiny_inputs, tiny_model

ATOL = 1e-5

DIFFERENT = {
    "layer.0.attention": [0, 2],
    "layer.0.ffn": [3, 5, 7, 60, 63],
    "layer.1.attention": [],
    "layer.1.ffn": list(range(20, 51)),
    "layer.2.attention": [3],
    "layer.2.ffn": [],
    "layer.3.attention": [0, 1, 2, 3],
    "layer.3.ffn": [11],
}
NO_ATTENTION = {f"layer.{layer}.attention": [] for layer in range(4)}
NO_FFN = {f"layer.{layer}.ffn": [] for layer in range(4)}


def outputs(model):
    """Logits and every hidden state."""
    with torch.no_grad():
        found = model.eval()(**tiny_inputs(model), output_hidden_states=True)
    return [found.logits, *found.hidden_states]


def difference(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(outputs(one), outputs(other), strict=True))


def baked(model, masks):
    twin = copy.deepcopy(model)
    masks.bake(twin)
    return twin


def keeping(model, kept):
    return unit_masks(model, lambda unit: kept.get(unit.key))


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, layers=4)


@pytest.mark.parametrize(
    "kept",
    [DIFFERENT, NO_ATTENTION, NO_FFN, NO_ATTENTION | NO_FFN],
    ids=["different", "no_attention", "no_ffn", "none"],
)
def test_compact_is_masked(model, kept):
    masks = keeping(model, kept)
    masked = baked(model, masks)
    assert difference(masked, model) > 0.01, "the masks must matter for this test to mean anything"
    compaction = compact(model, masks)
    assert difference(compaction.model, masked) <= ATOL
    assert {unit.key: list(unit.kept) for unit in compaction.units if unit.key in kept} == kept


def test_every_layer_has_the_size_that_its_masks_leave(model):
    smaller = compact(model, keeping(model, DIFFERENT)).model
    for unit in structure_of(smaller).units:
        size = unit.heads if isinstance(unit, Attention) else unit.size
        assert size == len(DIFFERENT[unit.key]), unit.key
    for unit in structure_of(smaller).attention:
        if unit.heads:
            width = unit.heads * unit.head_size
            for name in (unit.query, unit.key_, unit.value):
                assert smaller.get_submodule(name).weight.shape == (width, 32)
                assert smaller.get_submodule(name).out_features == width
            assert smaller.get_submodule(unit.output).weight.shape == (32, width)


@pytest.mark.parametrize("kept", [DIFFERENT, NO_ATTENTION | NO_FFN], ids=["different", "none"])
def test_no_tensor_of_size_zero_is_left(model, kept):
    smaller = compact(model, keeping(model, kept)).model
    assert [name for name, tensor in smaller.state_dict().items() if tensor.numel() == 0] == []


def test_density_is_the_stored_share_of_the_prunable_weights(model):
    compaction = compact(model, keeping(model, DIFFERENT))
    head, neuron = 4 * 8 * 32, 2 * 32
    heads, neurons = 2 + 0 + 1 + 4, 5 + 31 + 0 + 1
    assert compaction.density == pytest.approx((heads * head + neurons * neuron) / (16 * head + 256 * neuron))


def test_everything_empty_has_density_zero_and_still_trains(model):
    compaction = compact(model, keeping(model, NO_ATTENTION | NO_FFN))
    assert compaction.density == 0
    loss = compaction.model.train()(**tiny_inputs(model)).loss
    loss.backward()
    assert torch.isfinite(loss)
    stubs = [name for name, _ in compaction.model.named_parameters() if name.endswith(("dense.bias", "_lin.bias"))]
    assert all(compaction.model.get_parameter(name).grad is not None for name in stubs)


def test_the_model_is_left_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    config = model.config.to_dict()
    compact(model, keeping(model, DIFFERENT))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config


def test_inplace_makes_the_model_itself_smaller(model):
    masks = keeping(model, DIFFERENT)
    expected = outputs(baked(model, masks))
    compaction = compact(model, masks, inplace=True)
    assert compaction.model is model
    assert all(torch.allclose(a, b, atol=ATOL, rtol=0) for a, b in zip(outputs(model), expected, strict=True))


def test_frozen_parameters_stay_frozen(model):
    frozen = next(iter(structure_of(model).linears()))
    model.get_parameter(f"{frozen}.weight").requires_grad_(False)
    smaller = compact(model, keeping(model, {"layer.0.attention": [1]})).model
    assert not smaller.get_parameter(f"{frozen}.weight").requires_grad
    assert smaller.get_parameter(f"{frozen}.bias").requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(model, dtype):
    masks = keeping(model, DIFFERENT)
    smaller = compact(model.to(dtype), masks).model
    assert {parameter.dtype for parameter in smaller.parameters()} == {dtype}
    assert difference(smaller.float(), baked(model, masks).float()) <= 2e-2


def test_without_masks_nothing_is_removed(model):
    compaction = compact(model, MaskSet({}))
    assert compaction.density == 1
    assert difference(compaction.model, model) == 0
    assert getattr(compaction.model.config, "quantization_config", None) is None


def test_masks_of_other_layers_are_baked_in(model):
    """A mask may name what is no unit, such as the classifier: its zeros must be in the compact model too."""
    name = next(
        name for name, _ in model.named_parameters() if name.startswith(("classifier", "cls")) and "weight" in name
    )
    shape = tuple(model.get_parameter(name).shape)
    masks = MaskSet(
        {**keeping(model, DIFFERENT), name: Mask(Column(8), torch.tensor([True, False, True, True]), shape)}
    )
    masked = baked(model, masks)
    assert difference(masked, baked(model, keeping(model, DIFFERENT))) > 0.01
    assert difference(compact(model, masks).model, masked) <= ATOL


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(model):
    masks = unit_masks(model, lambda unit: DIFFERENT[unit.key])
    values = {name: mask for name, mask in masks.items() if not name.endswith("bias")}  # constants are folded
    expected = compact(model, MaskSet(values)).model
    found = compact(model.cuda(), MaskSet(values)).model
    assert {parameter.device.type for parameter in found.parameters()} == {"cuda"}
    assert difference(found.cpu(), expected) <= ATOL
