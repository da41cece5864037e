"""Expansion, reduction, masked layer and movement of every granularity against the reference, over shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from transformers.pytorch_utils import Conv1D

from prune_core.granularity import parse_granularity
from prune_core.kit.masked import MaskedConv1D, MaskedLinear, Masking, attach
from prune_core.kit.scores import GroupPlan, ScoreGroup, Target
from prune_core.masks import Mask, bias_mask
from tests.parity import reference

KINDS = ("element", "block", "rows_columns", "n:m", "head:rows", "head:columns", "neuron:rows", "row:rows")
KINDS += ("neuron:columns", "column:columns", "fused:rows", "fused:columns")
ROUNDING = {"rtol": 1e-11, "atol": 1e-12}
"""Two orders of the same float64 sums."""

each_kind = pytest.mark.parametrize("kind", KINDS)
sides = st.integers(1, 4)


@st.composite
def covered(draw, kind):
    """A granularity as it is written, and a shape of weight that it divides."""
    height, width, rows, columns = (draw(sides) for _ in range(4))
    shape = (height * rows, width * columns)
    if kind == "block":
        return f"block:{height}x{width}", shape
    if kind == "n:m":
        return f"{draw(st.integers(1, width))}:{width}", shape
    if kind.startswith("fused"):
        sizes = draw(st.lists(sides, min_size=2, max_size=3))
        lines = rows * sum(sizes)
        text = f"{kind.replace('fused', 'head')}:{'+'.join(map(str, sizes))}"
        return text, (lines, width) if kind.endswith("rows") else (width, lines)
    if kind.partition(":")[2]:
        return f"{kind}:{height if kind.endswith('rows') else width}", shape
    return kind, shape


def values_of(shape):
    return arrays.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0]))


def numbers(data, *shape):
    return data.draw(arrays.arrays(np.float64, shape, elements=st.floats(-4, 4)))


@each_kind
@given(st.data())
def test_expand(kind, data):
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    assert granularity.score_shape(shape) == reference.score_shape(text, shape)
    mask = data.draw(values_of(granularity.score_shape(shape)))
    full = reference.expand(mask, text, shape)
    np.testing.assert_array_equal(granularity.expand(torch.from_numpy(mask), shape), full)
    stored = Mask(granularity, torch.from_numpy(mask).bool(), shape)
    np.testing.assert_array_equal(stored.expand(), full.astype(bool))
    assert stored.density() == pytest.approx(full.mean(), abs=1e-6)


@each_kind
@given(st.data())
def test_rows_and_columns_are_where_a_weight_survives(kind, data):
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    mask = data.draw(values_of(granularity.score_shape(shape)))
    full = reference.expand(mask, text, shape)
    np.testing.assert_array_equal(granularity.rows(torch.from_numpy(mask), shape), full.any(axis=1))
    np.testing.assert_array_equal(granularity.columns(torch.from_numpy(mask), shape), full.any(axis=0))
    biases = bias_mask(granularity, torch.from_numpy(mask).bool(), shape)
    np.testing.assert_array_equal(biases.expand(), reference.bias_mask(full).astype(bool))


@each_kind
@given(st.data())
def test_rows_of_scores_are_the_thresholds_that_they_survive(kind, data):
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    scores = numbers(data, *granularity.score_shape(shape))
    rows = granularity.rows(torch.from_numpy(scores), shape).numpy()
    columns = granularity.columns(torch.from_numpy(scores), shape).numpy()
    for cut in np.unique(scores):
        full = reference.expand(reference.threshold(scores, cut), text, shape)
        np.testing.assert_array_equal(rows > cut, full.any(axis=1))
        np.testing.assert_array_equal(columns > cut, full.any(axis=0))


@each_kind
@given(st.data())
def test_reduce_is_the_mean(kind, data):
    text, shape = data.draw(covered(kind))
    weight = numbers(data, *shape)
    wanted = reference.mean_over_scores(weight, text)
    ours = parse_granularity(text).reduce(torch.from_numpy(weight))
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, **ROUNDING)


@each_kind
@given(st.data())
def test_strides_do_not_matter(kind, data):
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    weight = torch.from_numpy(numbers(data, *shape[::-1])).T
    mask = torch.from_numpy(data.draw(values_of(granularity.score_shape(shape))))
    np.testing.assert_allclose(granularity.reduce(weight), granularity.reduce(weight.contiguous()), **ROUNDING)
    assert torch.equal(granularity.apply(weight, mask), granularity.apply(weight.contiguous(), mask))


@each_kind
@given(st.data())
def test_collect_is_the_gradient_of_a_mask(kind, data):
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    weight, upstream = torch.from_numpy(numbers(data, *shape)), torch.from_numpy(numbers(data, *shape))
    mask = torch.from_numpy(data.draw(values_of(granularity.score_shape(shape)))).requires_grad_()
    granularity.apply(weight, mask).backward(upstream)
    np.testing.assert_allclose(granularity.collect(weight * upstream, mask.detach()), mask.grad, **ROUNDING)


@each_kind
@given(st.data())
def test_masked_layer_and_movement(kind, data):
    """y = x (W * M)^T + b * (rows of M); dL/dW = dL/dW' * M; dL/dS = sum of dL/dW' * W.

    Whole columns are what a unit's consumer reads of it: they leave the consumer's bias alone.
    """
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    weight, bias = numbers(data, *shape), numbers(data, shape[0])
    x, upstream = numbers(data, 3, shape[1]), numbers(data, 3, shape[0])
    mask = data.draw(values_of(granularity.score_shape(shape)))
    full = reference.expand(mask, text, shape)
    rows = np.ones(shape[0]) if "columns:" in text else reference.bias_mask(full)

    model = masked_model(Target("layer", granularity), weight, bias, mask)
    layer, group = model.layer, model.group
    output = layer(torch.from_numpy(x))
    np.testing.assert_allclose(output.detach(), reference.linear(x, weight * full, bias * rows), **ROUNDING)
    output.backward(torch.from_numpy(upstream))
    dense = reference.gradient_of_masked_weight(x, upstream)
    np.testing.assert_allclose(layer.weight.grad, dense * full, **ROUNDING)
    np.testing.assert_allclose(layer.bias.grad, upstream.sum(axis=0) * rows, **ROUNDING)
    if text != "rows_columns":
        wanted = reference.movement(x, upstream, weight, text)
        np.testing.assert_allclose(group.scores.grad, wanted, **ROUNDING)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("n:m", "rows_columns")])
@given(st.data())
def test_a_masked_conv1d_is_the_masked_linear(kind, data):
    """Weight, mask and granularity turned: the same output, and the same gradients turned."""
    text, shape = data.draw(covered(kind))
    granularity = parse_granularity(text)
    weight, bias = numbers(data, *shape), numbers(data, shape[0])
    mask = data.draw(values_of(granularity.score_shape(shape)))
    x, upstream = (torch.from_numpy(numbers(data, 3, side)) for side in shape[::-1])
    one = masked_model(Target("layer", granularity), weight, bias, mask)
    other = masked_model(Target("layer", granularity.turned()), weight.T, bias, mask.T, Conv1D(*shape).double())
    outputs = [model.layer(x) for model in (one, other)]
    np.testing.assert_allclose(*(output.detach() for output in outputs), **ROUNDING)
    for output in outputs:
        output.backward(upstream)
    np.testing.assert_allclose(other.layer.weight.grad.T, one.layer.weight.grad, **ROUNDING)
    np.testing.assert_allclose(other.layer.bias.grad, one.layer.bias.grad, **ROUNDING)
    np.testing.assert_allclose(other.group.scores.grad.T, one.group.scores.grad, **ROUNDING)
    biases = [bias_mask(granularity, torch.from_numpy(mask).bool(), shape)]
    biases += [bias_mask(granularity.turned(), torch.from_numpy(mask.T).bool(), shape[::-1], "columns")]
    assert torch.equal(*(found.expand() for found in biases))


def masked_model(target, weight, bias, mask, layer=None, group=None):
    model = torch.nn.Module()
    model.layer = layer or torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    model.layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    plan = GroupPlan("group", "ffn", (target,))
    model.group = group or ScoreGroup(plan, torch.zeros(mask.shape, dtype=torch.float64), 1)
    model.group.mask.copy_(torch.from_numpy(mask))
    attach(model, Masking(model.group, target))
    assert type(model.layer) is (MaskedConv1D if layer else MaskedLinear)
    return model


def test_movement_of_rows_times_columns():
    """A row's score moves by the weights whose columns are alive: W' = W * r * c, so dL/dr = sum of dL/dW' * W * c."""
    generator = np.random.default_rng(0)
    weight, upstream = generator.normal(size=(2, 3, 4))
    mask = np.array([1.0, 0, 1, 0, 1, 1, 1])
    model = masked_model(Target("layer", parse_granularity("rows_columns")), weight, np.zeros(3), mask)
    upstream_of_weights(model, upstream)
    moved, scores = upstream * weight, model.group.scores
    np.testing.assert_allclose(scores.grad[:3], moved @ mask[3:], **ROUNDING)
    np.testing.assert_allclose(scores.grad[3:], mask[:3] @ moved, **ROUNDING)


def test_movement_adds_up_over_the_layers_that_share_a_score():
    """Paired neurons: the row of up and the column of down."""
    generator = np.random.default_rng(1)
    up, down = generator.normal(size=(4, 3)), generator.normal(size=(2, 4))
    of_up, of_down = generator.normal(size=(4, 3)), generator.normal(size=(2, 4))
    mask, group = np.array([1.0, 0, 0, 1]), None
    for kind, weight, gradient in (("neuron:rows:1", up, of_up), ("neuron:columns:1", down, of_down)):
        bias = np.zeros(len(weight))
        model = masked_model(Target("layer", parse_granularity(kind)), weight, bias, mask, group=group)
        upstream_of_weights(model, gradient)
        group = model.group
    wanted = (of_up * up).sum(axis=1) + (of_down * down).sum(axis=0)
    np.testing.assert_allclose(group.scores.grad, wanted, **ROUNDING)


def upstream_of_weights(model, upstream):
    """Backward with this gradient of the masked weights: each input by itself."""
    model.layer(torch.eye(upstream.shape[1], dtype=torch.float64)).backward(torch.from_numpy(upstream.T.copy()))
