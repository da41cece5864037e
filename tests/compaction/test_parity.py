"""What compaction leaves of every family: sizes, dtypes, gradients, the model itself.

That it computes what the masked model does is in the contract of families (tests/contract/test_families.py).
"""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.granularity import Column
from prune_core.linears import outputs
from prune_core.masks import Mask, MaskSet
from prune_core.structure import Attention
from prune_core.testing.loop import everything, loss_of
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import FAMILIES, tiny_inputs, tiny_model

ATOL = 1e-5
LARGE = ("t5", "gemma2", "gemma3_text", "gemma3")
"""Model types whose hidden states reach 7 to 40 here: float32 rounds them by more than others."""


def nothing(model):
    return dict.fromkeys(structure_of(model).keys(), ())


def difference(one, other):
    """Largest difference of logits and hidden states; of models with LARGE ones, relative to those."""
    pairs = zip(everything(one), everything(other), strict=True)
    large = one.config.model_type in LARGE
    return max(float((a - b).abs().max() / (a.abs().max().clamp_min(1) if large else 1)) for a, b in pairs)


def hidden(model, unit):
    """What is as wide as the model at this unit: the rows of its output."""
    return outputs(model.get_submodule(unit.output if isinstance(unit, Attention) else unit.down))


def weight_shape(model, name):
    """Outputs and inputs: a Conv1D has them the other way round."""
    layer = model.get_submodule(name)
    return layer.weight.shape if isinstance(layer, torch.nn.Linear) else layer.weight.T.shape


def baked(model, masks):
    twin = copy.deepcopy(model)
    masks.bake(twin)
    return twin


def keeping(model, kept):
    return unit_masks(model, lambda unit: kept.get(unit.key))


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, layers=4)


def test_every_layer_has_the_size_that_its_masks_leave(model):
    kept = uneven(model)
    smaller = compact(model, keeping(model, kept)).model
    for unit in structure_of(smaller).units:
        assert unit.count == len(kept[unit.key]), unit.key
    for unit in structure_of(smaller).attention:
        if unit.heads:
            width, shared = unit.heads * unit.head_size, unit.key_value_heads * unit.head_size
            gives = {unit.query: width, unit.key_: shared, unit.value: shared}
            if len(gives) == 1:
                gives = {unit.query: width + 2 * shared}
            for name, count in gives.items():
                assert weight_shape(smaller, name) == (count, hidden(model, unit))
                assert outputs(smaller.get_submodule(name)) == count
            assert weight_shape(smaller, unit.output) == (hidden(model, unit), width)


@pytest.mark.parametrize("kept", [uneven, nothing])
def test_no_tensor_of_size_zero_is_left(model, kept):
    smaller = compact(model, keeping(model, kept(model))).model
    assert [name for name, tensor in smaller.state_dict().items() if tensor.numel() == 0] == []


def test_density_is_the_stored_share_of_the_prunable_weights(model):
    kept = uneven(model)
    compaction = compact(model, keeping(model, kept))
    structure = structure_of(model)
    heads = sum(
        (1 + unit.queries_per_key) * 2 * unit.head_size * hidden(model, unit) * len(kept[unit.key])
        for unit in structure.attention
    )
    neurons = sum((3 if unit.gate else 2) * hidden(model, unit) * len(kept[unit.key]) for unit in structure.ffn)
    assert compaction.density == pytest.approx((heads + neurons) / structure.size(model))


def test_everything_empty_has_density_zero_and_still_trains(model):
    compaction = compact(model, keeping(model, nothing(model)))
    assert compaction.density == 0
    loss = loss_of(compaction.model.train(), tiny_inputs(model))
    loss.backward()
    assert torch.isfinite(loss)
    # without cross-attention nothing of the encoder reaches the loss
    units = structure_of(model).without(["encoder.*"] if model.config.is_encoder_decoder else []).units
    ends = {f"{unit.output if isinstance(unit, Attention) else unit.down}.bias" for unit in units}
    stubs = [parameter for name, parameter in compaction.model.named_parameters() if name in ends]
    assert len(stubs) == len(ends & dict(model.named_parameters()).keys())
    assert all(parameter.grad is not None for parameter in stubs)


def test_the_model_is_left_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    config = model.config.to_dict()
    compact(model, keeping(model, uneven(model)))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config


def test_inplace_makes_the_model_itself_smaller(model):
    masks = keeping(model, uneven(model))
    masked = baked(model, masks)
    compaction = compact(model, masks, inplace=True)
    assert compaction.model is model
    assert difference(model, masked) <= ATOL


def test_frozen_parameters_stay_frozen(model):
    first = structure_of(model).attention[0]
    model.get_parameter(f"{first.query}.weight").requires_grad_(False)
    smaller = compact(model, keeping(model, {first.key: [1]})).model
    assert not smaller.get_parameter(f"{first.query}.weight").requires_grad
    assert smaller.get_parameter(f"{first.output}.weight").requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(model, dtype):
    masks = keeping(model, uneven(model))
    smaller, masked = compact(model.to(dtype), masks).model, baked(model, masks)
    assert {parameter.dtype for parameter in smaller.parameters()} == {dtype}
    assert difference(smaller, masked) <= difference(masked, copy.deepcopy(masked).float()), "more than rounding"
    assert difference(smaller.float(), masked.float()) <= 2e-2


def test_without_masks_nothing_is_removed(model):
    compaction = compact(model, MaskSet({}))
    assert compaction.density == 1
    assert difference(compaction.model, model) == 0
    assert getattr(compaction.model.config, "quantization_config", None) is None


def test_masks_of_other_layers_are_baked_in(model):
    """A mask may name what is no unit, such as an embedding: its zeros must be in the compact model too."""
    units = {f"{name}.weight" for name in structure_of(model).linears()}
    name, shape = next(
        (name, tuple(weight.shape))
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and weight.shape[0] > 1 and weight.shape[1] % 32 == 0 and name not in units
    )
    masks = MaskSet(
        {**keeping(model, uneven(model)), name: Mask(Column(4), torch.arange(shape[1] // 4) % 2 == 0, shape)}
    )
    masked = baked(model, masks)
    assert difference(masked, baked(model, keeping(model, uneven(model)))) > 0.01
    assert difference(compact(model, masks).model, masked) <= ATOL


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(model):
    masks = keeping(model, uneven(model))
    values = {name: mask for name, mask in masks.items() if not name.endswith("bias")}  # constants are folded
    expected = compact(model, MaskSet(values)).model
    found = compact(model.cuda(), MaskSet(values)).model
    assert {parameter.device.type for parameter in found.parameters()} == {"cuda"}
    assert difference(found.cpu(), expected) <= ATOL
