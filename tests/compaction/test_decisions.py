"""Which heads and neurons go: only those whose removal, with their constant folded, changes nothing."""

import copy

import pytest
import torch

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.granularity import Element
from prune_core.linears import linear
from prune_core.masks import Mask, MaskSet
from prune_core.testing.tiny import tiny_inputs, tiny_model

ATOL = 1e-5
HEAD = 1
ROWS = slice(8 * HEAD, 8 * HEAD + 8)
NEURON = 7


def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny_inputs(model)).logits


def element(model, name, *, rows=None, columns=None, bias=False):
    """Element masks of one linear in which these rows or columns are empty (and with `bias` these bias entries)."""
    weight = linear(model, name).weight
    values = torch.ones_like(weight, dtype=torch.bool)
    if rows is not None:
        values[rows] = False
    if columns is not None:
        values[:, columns] = False
    masks = {f"{name}.weight": Mask(Element(), values, tuple(weight.shape))}
    if bias:
        kept = torch.ones(weight.shape[0], dtype=torch.bool)
        kept[rows] = False
        masks[f"{name}.bias"] = Mask(Element(), kept, (weight.shape[0],))
    return masks


def check(model, masks):
    """Compact, prove that nothing changed, and return the compact model with what each unit kept."""
    masked = copy.deepcopy(model)
    MaskSet(masks).bake(masked)
    compaction = compact(model, MaskSet(masks))
    torch.testing.assert_close(logits(compaction.model), logits(masked), atol=ATOL, rtol=0)
    return compaction.model, {unit.key: list(unit.kept) for unit in compaction.units}


@pytest.fixture(params=["bert", "roberta", "electra", "distilbert", "vit", "deit", "bart", "opt"])
def model(request):
    return tiny_model(request.param, **({"activation_function": "gelu"} if request.param == "opt" else {}))


@pytest.fixture
def attention(model):
    return structure_of(model).attention[0]


@pytest.fixture
def ffn(model):
    return structure_of(model).ffn[0]


ALL_HEADS, WITHOUT = [0, 1, 2, 3], [0, 2, 3]
ALL_NEURONS = list(range(64))


@pytest.mark.parametrize("roles", [("query",), ("key_",), ("query", "key_")], ids="+".join)
@pytest.mark.parametrize("bias", [False, True])
def test_a_head_without_query_or_key_averages_its_values_and_stays(model, attention, roles, bias):
    masks = {}
    for role in roles:
        masks |= element(model, getattr(attention, role), rows=ROWS, bias=bias)
    _, kept = check(model, masks)
    assert kept[attention.key] == ALL_HEADS


def test_removing_a_head_without_query_would_have_moved_the_logits(model, attention):
    """What makes the test above mean something: the averaged values do reach the logits."""
    wrong = copy.deepcopy(model)
    masks = element(model, attention.query, rows=ROWS, bias=True)
    MaskSet(masks).bake(wrong)
    right = logits(wrong)
    MaskSet(element(model, attention.output, columns=ROWS)).bake(wrong)
    assert float((logits(wrong) - right).abs().max()) > 1e-3


def test_a_head_without_values_goes_and_its_value_bias_is_folded(model, attention):
    bias, output = linear(model, attention.value).bias, linear(model, attention.output)
    assert (bias[ROWS] != 0).all()
    smaller, kept = check(model, element(model, attention.value, rows=ROWS))
    assert kept[attention.key] == WITHOUT
    expected = output.bias + output.weight[:, ROWS] @ bias[ROWS]
    assert not torch.allclose(expected, output.bias, atol=1e-3)
    torch.testing.assert_close(linear(smaller, attention.output).bias, expected, atol=1e-6, rtol=0)


def test_a_head_without_values_and_value_bias_goes_without_a_trace(model, attention):
    smaller, kept = check(model, element(model, attention.value, rows=ROWS, bias=True))
    assert kept[attention.key] == WITHOUT
    assert torch.equal(linear(smaller, attention.output).bias, linear(model, attention.output).bias)


def test_a_head_whose_output_columns_are_empty_goes(model, attention):
    smaller, kept = check(model, element(model, attention.output, columns=ROWS))
    assert kept[attention.key] == WITHOUT
    assert torch.equal(linear(smaller, attention.output).bias, linear(model, attention.output).bias)


@pytest.mark.parametrize("role", ["value", "output"])
def test_a_head_of_which_one_weight_is_left_stays(model, attention, role):
    name = getattr(attention, role)
    masks = element(model, name, rows=ROWS) if role == "value" else element(model, name, columns=ROWS)
    values = masks[f"{name}.weight"].values
    (values if role == "value" else values.T)[ROWS.stop - 1, 3] = True
    _, kept = check(model, masks)
    assert kept[attention.key] == ALL_HEADS


def test_every_head_without_values_leaves_the_folded_bias_alone(model, attention):
    smaller, kept = check(model, element(model, attention.value, rows=slice(None)))
    assert kept[attention.key] == []
    output = linear(model, attention.output)
    expected = output.bias + output.weight @ linear(model, attention.value).bias
    (found,) = [value for name, value in smaller.named_parameters() if name == f"{attention.output}.bias"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_several_reasons_in_one_unit(model, attention):
    """One head without query (stays), one without values (folded), one without output columns (gone)."""
    masks = element(model, attention.query, rows=slice(0, 8))
    masks |= element(model, attention.value, rows=slice(8, 16))
    masks |= element(model, attention.output, columns=slice(16, 24))
    _, kept = check(model, masks)
    assert kept[attention.key] == [0, 3]


def test_a_head_without_values_whose_columns_are_empty_too_folds_nothing(model, attention):
    masks = element(model, attention.value, rows=ROWS) | element(model, attention.output, columns=ROWS)
    smaller, kept = check(model, masks)
    assert kept[attention.key] == WITHOUT
    assert torch.equal(linear(smaller, attention.output).bias, linear(model, attention.output).bias)


def test_a_neuron_whose_up_row_is_empty_goes_and_its_constant_is_folded(model, ffn):
    down, bias = linear(model, ffn.down), linear(model, ffn.up).bias
    with torch.no_grad():
        bias[NEURON] = 0.75
    smaller, kept = check(model, element(model, ffn.up, rows=NEURON))
    assert kept[ffn.key] == [index for index in ALL_NEURONS if index != NEURON]
    constant = torch.nn.functional.gelu(torch.tensor(0.75))
    expected = down.bias + constant * down.weight[:, NEURON]
    assert not torch.allclose(expected, down.bias, atol=1e-3)
    torch.testing.assert_close(linear(smaller, ffn.down).bias, expected, atol=1e-6, rtol=0)


def test_a_neuron_whose_up_row_and_bias_are_empty_goes_without_a_trace(model, ffn):
    smaller, kept = check(model, element(model, ffn.up, rows=NEURON, bias=True))
    assert NEURON not in kept[ffn.key]
    assert torch.equal(linear(smaller, ffn.down).bias, linear(model, ffn.down).bias)


def test_a_neuron_whose_down_column_is_empty_goes(model, ffn):
    smaller, kept = check(model, element(model, ffn.down, columns=NEURON))
    assert kept[ffn.key] == [index for index in ALL_NEURONS if index != NEURON]
    assert torch.equal(linear(smaller, ffn.down).bias, linear(model, ffn.down).bias)


@pytest.mark.parametrize("role", ["up", "down"])
def test_a_neuron_of_which_one_weight_is_left_stays(model, ffn, role):
    name = getattr(ffn, role)
    masks = element(model, name, rows=NEURON) if role == "up" else element(model, name, columns=NEURON)
    values = masks[f"{name}.weight"].values
    (values if role == "up" else values.T)[NEURON, 5] = True
    _, kept = check(model, masks)
    assert kept[ffn.key] == ALL_NEURONS


def test_every_up_row_empty_leaves_the_folded_bias_alone(model, ffn):
    _, kept = check(model, element(model, ffn.up, rows=slice(None)))
    assert kept[ffn.key] == []


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@pytest.mark.parametrize(
    ("activation", "bias", "constant"), [("relu", 0.5, 0.5), ("relu", -0.5, 0.0), ("silu", -1.0, -0.26894143)]
)
def test_the_constant_goes_through_the_models_own_activation(family, activation, bias, constant):
    name = "activation" if family == "distilbert" else "hidden_act"
    model = tiny_model(family, **{name: activation})
    ffn = structure_of(model).ffn[1]
    with torch.no_grad():
        linear(model, ffn.up).bias[NEURON] = bias
    smaller, kept = check(model, element(model, ffn.up, rows=NEURON))
    assert NEURON not in kept[ffn.key]
    down = linear(model, ffn.down)
    expected = down.bias + constant * down.weight[:, NEURON]
    torch.testing.assert_close(linear(smaller, ffn.down).bias, expected, atol=1e-6, rtol=0)


class TestWithoutOutputBias:
    """Where there is no bias to fold into, a unit whose constant is not zero stays; others go as ever."""

    @pytest.fixture
    def model(self):
        model = tiny_model("vit")
        for name in ("attention.o_proj", "mlp.fc2"):
            for layer in model.vit.layers:
                layer.get_submodule(name).bias = None
        return model

    def test_a_head_with_a_constant_stays(self, model, attention):
        _, kept = check(model, element(model, attention.value, rows=ROWS))
        assert kept[attention.key] == ALL_HEADS

    def test_a_head_without_a_constant_goes(self, model, attention):
        smaller, kept = check(model, element(model, attention.value, rows=ROWS, bias=True))
        assert kept[attention.key] == WITHOUT
        assert linear(smaller, attention.output).bias is None

    def test_a_head_without_output_columns_goes(self, model, attention):
        _, kept = check(model, element(model, attention.output, columns=ROWS))
        assert kept[attention.key] == WITHOUT

    def test_a_neuron_with_a_constant_stays(self, model, ffn):
        _, kept = check(model, element(model, ffn.up, rows=NEURON))
        assert kept[ffn.key] == ALL_NEURONS

    def test_a_neuron_without_a_constant_goes(self, model, ffn):
        _, kept = check(model, element(model, ffn.up, rows=NEURON, bias=True))
        assert NEURON not in kept[ffn.key]

    def test_an_empty_unit_adds_nothing(self, model, attention, ffn):
        masks = element(model, attention.output, columns=slice(None)) | element(model, ffn.down, columns=slice(None))
        smaller, kept = check(model, masks)
        assert kept[attention.key] == kept[ffn.key] == []
        assert not [name for name, _ in smaller.named_parameters() if name.startswith(attention.output)]


class TestWithoutValueBias:
    """Projections without biases (`qkv_bias=False`): a head without values adds nothing."""

    @pytest.fixture
    def model(self):
        return tiny_model("vit", qkv_bias=False)

    def test_a_head_without_values_goes_without_a_trace(self, model, attention):
        assert linear(model, attention.value).bias is None
        smaller, kept = check(model, element(model, attention.value, rows=ROWS))
        assert kept[attention.key] == WITHOUT
        assert torch.equal(linear(smaller, attention.output).bias, linear(model, attention.output).bias)


def test_zeros_that_no_mask_names_are_never_removed(model, attention, ffn):
    with torch.no_grad():
        linear(model, attention.value).weight[ROWS] = 0
        linear(model, attention.value).bias[ROWS] = 0
        linear(model, attention.output).weight[:, ROWS] = 0
        linear(model, ffn.up).weight[NEURON] = 0
        linear(model, ffn.up).bias[NEURON] = 0
        linear(model, ffn.down).weight[:, NEURON] = 0
    smaller, kept = check(model, element(model, attention.output, columns=slice(0, 8)))
    assert kept[attention.key] == [1, 2, 3]
    assert kept[ffn.key] == ALL_NEURONS
    assert linear(smaller, ffn.up).weight.shape == (64, 32)


def test_masks_that_keep_everything_remove_nothing_even_of_zeros(model, attention, ffn):
    with torch.no_grad():
        linear(model, attention.value).weight[ROWS] = 0
        linear(model, ffn.down).weight[:, NEURON] = 0
    _, kept = check(model, element(model, attention.value) | element(model, ffn.down))
    assert kept[attention.key] == ALL_HEADS
    assert kept[ffn.key] == ALL_NEURONS


def test_a_masked_bias_alone_removes_nothing(model, ffn):
    kept_entries = torch.ones(64, dtype=torch.bool)
    kept_entries[NEURON] = False
    _, kept = check(model, {f"{ffn.up}.bias": Mask(Element(), kept_entries, (64,))})
    assert kept[ffn.key] == ALL_NEURONS
