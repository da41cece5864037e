"""2:4 masks: compacted as ever, recorded, and packed where there are kernels; computed densely anywhere else."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from prune_core.compaction import choose, compact
from prune_core.compaction.two_of_four import TwoOfFourCompactor
from prune_core.errors import MaskError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.granularity import NM
from prune_core.kit.binarizers import n_of_m
from prune_core.linears import linear
from prune_core.masks import Mask, MaskSet
from prune_core.measure import DENSE, Grid, bench
from prune_core.plugins import load_plugins
from prune_core.sparse import forms
from prune_core.sparse.forms import Form, TwoOfFour, make_dense
from prune_core.structure import Attention
from prune_core.testing.sample_masks import random_masks, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.verification.verify import expect, outputs, verify


def patterned(model, n=2, m=4, left=None):
    """Masks of n in m; of the first layer's neurons only those `left` have anything in the columns of down."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for name, weight in structure_of(model).weights(model):
        values = n_of_m(torch.rand(weight.shape, generator=generator), n, m).bool()
        if left is not None and name == f"{structure_of(model).ffn[0].down}.weight":
            values &= torch.tensor([index in left for index in range(weight.shape[1])])
        masks[name] = Mask(NM(n, m), values, tuple(weight.shape))
    return MaskSet(masks, sparse=True)


def baked(model, masks):
    masked = copy.deepcopy(model)
    masks.bake(masked)
    return masked


def inputs_of(model):
    return {name: value for name, value in tiny_inputs(model).items() if name != "labels"}


def is_two_of_four(weight):
    return bool(((weight != 0).view(-1, 4).sum(1) <= 2).all())


@pytest.fixture
def kernels(monkeypatch):
    """Kernels on this CPU, for the sake of the test: what is packed stays as it is, and is counted."""
    packed = []

    def to_sparse(weight):
        assert all(size % 64 == 0 for size in weight.shape)
        assert is_two_of_four(weight)
        packed.append(weight)
        return weight

    monkeypatch.setattr(forms, "_has_kernels", lambda weight: weight.dtype == torch.bfloat16)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", to_sparse)
    return packed


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit"])
def test_masked_compact_and_reloaded_are_one_function_and_linears_take_the_form(family, tmp_path):
    model = tiny_model(family)
    masks = patterned(model)
    compaction = compact(model, masks, "two-of-four")
    verify(expect(baked(model, masks), [inputs_of(model)]), compaction, [inputs_of(model)]).enforce()
    save_compact(compaction, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["two_of_four"] is True
    again = type(model).from_pretrained(tmp_path)
    names = structure_of(again).left_in(again)
    assert names
    for one in (compaction.model, again):
        assert all(type(linear(one, name)) is TwoOfFour and is_two_of_four(linear(one, name).weight) for name in names)
    assert compaction.density == pytest.approx(0.5)


def test_neurons_stay_in_whole_groups_of_four():
    """One neuron of each of four groups is needed: the groups stay, and columns are two of four as they were."""
    model = tiny_model("bert")
    left = {1, 6, 8, 9, 10, 11, 63}
    masks = patterned(model, left=left)
    compaction = compact(model, masks, "two-of-four")
    ffn = structure_of(model).ffn[0]
    kept = next(unit.kept for unit in compaction.units if unit.key == ffn.key)
    assert kept == (*range(12), *range(60, 64))
    assert is_two_of_four(linear(compaction.model, ffn.down).weight)
    assert compaction.ragged < compaction.density
    verify(expect(baked(model, masks), [inputs_of(model)]), compaction, [inputs_of(model)]).enforce()
    held = TwoOfFourCompactor({ffn.key: 24}).compact(model, masks, structure_of(model))
    kept = next(unit.kept for unit in held.units if unit.key == ffn.key)
    assert (len(kept), {index // 4 for index in kept}) == (24, {0, 1, 2, 3, 4, 15})


def test_whole_neurons_and_heads_go_beside_it():
    model = tiny_model("bert")
    whole = unit_masks(model, lambda unit: [0] if isinstance(unit, Attention) else range(3))
    ffn, first = structure_of(model).ffn[0], patterned(model)
    masks = MaskSet({**whole, f"{ffn.up}.weight": first[f"{ffn.up}.weight"]})
    compaction = compact(model, masks, "two-of-four")
    verify(expect(baked(model, masks), [inputs_of(model)]), compaction, [inputs_of(model)]).enforce()
    assert {len(unit.kept) for unit in compaction.units} == {1, 3}


class TestRefusals:
    @pytest.mark.parametrize(
        ("n", "m", "fits"), [(2, 4, True), (1, 4, True), (1, 2, True), (3, 4, False), (4, 8, False)]
    )
    def test_it_is_for_two_of_four(self, n, m, fits):
        masks = patterned(tiny_model("bert"), n, m)
        if fits:
            assert isinstance(choose(masks, "two-of-four", load_plugins()), TwoOfFourCompactor)
            return
        with pytest.raises(MaskError, match=rf"is for 2:4 masks, found {n}:{m}: prune with strategy.pattern 2:4"):
            choose(masks, "two-of-four", load_plugins())

    def test_masks_of_another_kind(self):
        with pytest.raises(MaskError, match="is for 2:4 masks, found element"):
            choose(random_masks(tiny_model("bert"), "element"), "two-of-four", load_plugins())

    def test_conv1ds(self):
        model = tiny_model("gpt2")
        with pytest.raises(StructureError, match=r"two-of-four: .* is made of Conv1Ds"):
            TwoOfFourCompactor().check(model, structure_of(model))

    def test_auto_never_takes_it(self):
        model = tiny_model("bert")
        assert type(linear(compact(model, patterned(model)).model, structure_of(model).ffn[0].up)) is nn.Linear


class TestLazily:
    def layer(self, *, bias=True):
        torch.manual_seed(0)
        layer = nn.Linear(72, 40, bias=bias, dtype=torch.bfloat16)
        with torch.no_grad():
            layer.weight.view(-1, 4)[:, 1:3] = 0
        return layer

    @pytest.mark.parametrize("bias", [True, False])
    def test_the_weight_is_packed_at_its_first_use_in_inference(self, kernels, bias):
        layer, given = self.layer(bias=bias), torch.randn(2, 3, 72, dtype=torch.bfloat16)
        expected = layer(given).detach()
        TwoOfFour.take(layer)
        assert not kernels
        layer(given).sum().backward()
        assert not kernels, "where a gradient is wanted it computes densely"
        with torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(layer(given), expected, atol=0.02, rtol=0.02)
        assert [tuple(one.shape) for one in kernels] == [(64, 128)]

    @pytest.mark.parametrize("change", ["step", "load", "assign", "another"])
    def test_and_again_when_it_changed(self, kernels, change):
        layer, given = self.layer(), torch.randn(5, 72, dtype=torch.bfloat16)
        TwoOfFour.take(layer)
        with torch.no_grad():
            layer(given)
            if change == "step":
                layer.weight.mul_(2)
            elif change in ("load", "assign"):
                negative = {name: -value for name, value in layer.state_dict().items()}
                layer.load_state_dict(negative, assign=change == "assign")
            else:
                layer.weight.add_(1)
            expected = nn.functional.linear(given, layer.weight, layer.bias)
            torch.testing.assert_close(layer(given), expected, atol=0.05, rtol=0.05)
        assert len(kernels) == (1 if change == "another" else 2), "what is not two of four is computed densely"

    def test_copies_and_pickles_derive_their_own(self, kernels):
        layer, given = self.layer(), torch.randn(5, 72, dtype=torch.bfloat16)
        TwoOfFour.take(layer)
        with torch.no_grad():
            expected = layer(given)
            for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                assert "_packed" not in other.__dict__
                assert torch.equal(other(given), expected)
        assert len(kernels) == 3

    def test_in_another_dtype_it_is_dense(self, kernels):
        layer = self.layer().float()
        TwoOfFour.take(layer)
        with torch.inference_mode():
            layer(torch.randn(5, 72))
        assert not kernels
        make_dense(layer)
        assert type(layer) is nn.Linear

    def test_a_loaded_model_computes_with_what_was_packed(self, kernels, tmp_path):
        model = tiny_model("bert").to(torch.bfloat16)
        save_compact(compact(model, patterned(model), "two-of-four"), tmp_path)
        again = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
        with torch.inference_mode():
            again(**inputs_of(again))
        assert len(kernels) == len(structure_of(again).left_in(again))

    def test_a_measurement_says_which_linears_are_packed(self, kernels):
        """A dense model has none, and in float32 no linear is."""
        model = tiny_model("bert")
        smaller = compact(model, patterned(model), "two-of-four").model.eval()
        grid = Grid(batch_sizes=(1,), lengths=(4,), dtypes=("float32", "bfloat16"), rounds=3)
        for row, form in zip(
            bench({"dense": model, "small": smaller}, grid, "cpu").rows, (DENSE, TwoOfFour.kind), strict=True
        ):
            dense, small = row.sides
            assert dense.forms is None
            assert [one.layer for one in small.forms] == list(structure_of(smaller).left_in(smaller))
            assert {(one.form, one.gain) for one in small.forms} == {(form, None)}
            assert all(0.4 < one.density <= 0.5 for one in small.forms)


def test_a_loaded_model_trains_saves_and_loads_on(tmp_path):
    model = tiny_model("bert")
    save_compact(compact(model, patterned(model), "two-of-four"), tmp_path / "first")
    again = type(model).from_pretrained(tmp_path / "first")
    again.train()(**tiny_inputs(again)).loss.backward()
    again.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "model.safetensors").stat().st_size == (
        tmp_path / "first" / "model.safetensors"
    ).stat().st_size, "zeros are left out again"
    third = type(model).from_pretrained(tmp_path / "second")
    assert torch.equal(outputs(again, [inputs_of(again)])[0], outputs(third, [inputs_of(third)])[0])
    assert type(linear(third, structure_of(third).ffn[0].up)) is TwoOfFour
    third.load_state_dict(again.state_dict())


def test_what_is_compacted_once_more_stays_two_of_four():
    model = tiny_model("bert")
    smaller = compact(model, patterned(model), "two-of-four").model
    again = compact(smaller, unit_masks(smaller, lambda unit: [1] if isinstance(unit, Attention) else None))
    assert again.model.config.quantization_config.two_of_four
    assert not again.model.config.quantization_config.no_norm


def test_it_exports_as_any_other():
    model = tiny_model("bert")
    smaller = compact(model, patterned(model), "two-of-four").model.eval()
    batch = inputs_of(smaller)
    with torch.no_grad():
        exported = torch.export.export(smaller, (), batch).module()
        torch.testing.assert_close(exported(**batch).logits, smaller(**batch).logits)


def test_a_form_says_what_it_lacks():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Form,), {})(4, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device_map", [None, "cuda", "auto"])
def test_kernels_compute_what_dense_linears_do(dtype, device_map, tmp_path):
    """Sizes that need padding, heads and neurons gone, after a plain from_pretrained; after training it is dense."""
    model = tiny_model("bert")
    save_compact(compact(model, patterned(model, left=range(9)), "two-of-four"), tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=dtype, device_map=device_map).to("cuda")
    dense = copy.deepcopy(again)
    batch = {name: value.to("cuda") for name, value in inputs_of(again).items()}
    layers = [linear(again, name) for name in structure_of(again).left_in(again)]
    for name in structure_of(dense).left_in(dense):
        make_dense(linear(dense, name))
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch).logits, dense(**batch).logits, atol=2e-2, rtol=2e-2)
    assert all(layer._packed is not None for layer in layers)
    with torch.no_grad():
        for one, other in zip(again.parameters(), dense.parameters(), strict=True):
            one.add_(0.01)
            other.add_(0.01)
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch).logits, dense(**batch).logits, atol=2e-2, rtol=2e-2)
    assert all(layer._packed is None for layer in layers)
