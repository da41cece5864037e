"""Scores -> masks against the reference, and cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prune_core.granularity import Block, parse_granularity
from prune_core.kit import binarizers, gates
from tests.parity import reference

FLOAT32 = {"rtol": 3e-7, "atol": 3e-7}
"""A few units in the last place of float32, for numbers up to 1."""

shapes = arrays.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=12)
distinct = st.floats(-8, 8, width=32)
tied = st.sampled_from([-1.5, 0.0, 0.25, 1.0])
densities = st.one_of(st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0]), st.floats(0, 1))
floors = st.one_of(st.sampled_from([0.0, 1e-9, 0.005, 0.999]), st.floats(0, 0.999))


def scores_of(shape):
    return arrays.arrays(np.float32, shape, elements=st.one_of(distinct, tied))


any_scores = shapes.flatmap(scores_of)


def same(ours: torch.Tensor, wanted: np.ndarray) -> None:
    assert ours.shape == wanted.shape
    assert ours.dtype == torch.float32
    np.testing.assert_array_equal(ours.numpy(), wanted)


@given(any_scores, densities)
def test_topk(scores, density):
    mask = binarizers.topk(torch.from_numpy(scores), density)
    assert mask.sum() == round(density * scores.size)
    same(mask, reference.topk(scores, density))


@given(any_scores, st.one_of(distinct, tied), floors)
def test_threshold(scores, cut, floor):
    mask = binarizers.threshold(torch.from_numpy(scores), cut, floor)
    if floor:
        assert mask.sum() >= min(math.floor(floor * scores.size) + 1, scores.size)
    same(mask, reference.threshold(scores, np.float32(cut), floor))


@given(any_scores, st.floats(0.01, 0.99), floors)
def test_sigmoid_threshold(scores, cut, floor):
    soft = reference.sigmoid(scores)
    assume(np.abs(soft - cut).min() > 1e-6)  # closer, float32 may stand on either side
    same(binarizers.sigmoid_threshold(torch.from_numpy(scores), cut, floor), reference.threshold(soft, cut, floor))


def test_floor_keeps_the_highest_where_the_sigmoid_is_one():
    scores = torch.tensor([20.0, 30.0, 40.0, 25.0])  # all of them 1 in float32
    assert binarizers.sigmoid_threshold(scores, 1.0, floor=0.3).tolist() == [0, 1, 1, 0]


@given(st.integers(0, 2**32), densities)
@pytest.mark.parametrize(
    "kind", ["element", "block:2x4", "row:rows:1", "column:columns:1", "head:rows:3", "rows_columns"]
)
def test_magnitude(kind, seed, density):
    weight = np.random.default_rng(seed).normal(size=(6, 8)).astype(np.float32)
    means = reference.mean_over_scores(np.abs(weight.astype(np.float64)), kind)
    assume(np.diff(np.sort(means.ravel())).min() > 1e-6)  # closer, float32 may order them the other way
    ours = binarizers.magnitude(torch.from_numpy(weight), parse_granularity(kind), density)
    same(ours, reference.topk(means, density))


@st.composite
def grouped(draw):
    m = draw(st.integers(1, 6))
    n = draw(st.integers(1, m))
    shape = (draw(st.integers(1, 4)), m * draw(st.integers(1, 4)))
    return draw(scores_of(shape)), n, m


@given(grouped())
def test_n_of_m(case):
    scores, n, m = case
    mask = binarizers.n_of_m(torch.from_numpy(scores), n, m)
    assert (mask.view(-1, m).sum(dim=1) == n).all()
    same(mask, reference.n_of_m(scores, n, m))


@given(any_scores, st.data())
def test_hard_concrete(scores, data):
    uniform = data.draw(arrays.arrays(np.float64, scores.shape, elements=st.floats(1e-6, 1 - 1e-6)))
    noise = torch.from_numpy(np.log(uniform) - np.log(1 - uniform)).float()
    mask = binarizers.hard_concrete(torch.from_numpy(scores), noise)
    # s may be off by a few last places of its argument, and is stretched by 1.2
    np.testing.assert_allclose(mask.numpy(), reference.hard_concrete(scores.astype(np.float64), uniform), atol=2e-6)


@given(any_scores)
def test_hard_concrete_in_evaluation(scores):
    mask = binarizers.hard_concrete_mean(torch.from_numpy(scores))
    np.testing.assert_allclose(mask.numpy(), reference.hard_concrete_in_evaluation(scores), **FLOAT32)


def test_hard_concrete_by_hand():
    """u = 1/2 and S = 0: s = 1/2, stretched 1/2 * 1.2 - 0.1 = 1/2. A score far out is exactly 0 or 1."""
    mask = binarizers.hard_concrete(torch.tensor([0.0, -4.0, 4.0]), torch.zeros(3))
    assert mask.tolist() == [0.5, 0.0, 1.0]


def test_hard_concrete_gradient():
    """d mask / dS = s (1 - s) / b * (r - l) where the mask is open, 0 where it is clamped."""
    scores = torch.tensor([0.3, -5.0, 5.0], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([-0.2, 0.0, 0.0], dtype=torch.float64)
    binarizers.hard_concrete(scores, noise).sum().backward()
    s = reference.sigmoid(0.1 / (2 / 3))
    np.testing.assert_allclose(scores.grad.numpy(), [s * (1 - s) * 1.5 * 1.2, 0, 0], rtol=1e-12)


def noise_of(*shapes: tuple[int, ...], seed: int, step: int) -> list[torch.Tensor]:
    noise = [torch.zeros(shape) for shape in shapes]
    gates.draw(noise, seed, step)
    return noise


def test_noise_is_logistic_and_depends_on_seed_and_step_alone():
    (noise,) = noise_of((200_000,), seed=3, step=7)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(noise, *noise_of((200_000,), seed=3, step=7))
    assert torch.equal(before, torch.get_rng_state())
    for seed, step in ((3, 8), (4, 7), (2, 1_000_010)):
        assert abs(np.corrcoef(noise, *noise_of((200_000,), seed=seed, step=step))[0, 1]) < 0.01
    uniform = reference.sigmoid(noise.numpy())
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(uniform, quantiles), quantiles, atol=0.005)  # 4 standard errors
    assert torch.isfinite(noise).all()


def test_groups_have_each_their_own_noise():
    one, other = noise_of((100, 200), (20_000,), seed=3, step=7)
    assert abs(np.corrcoef(one.flatten(), other)[0, 1]) < 0.03  # 4 standard errors


def test_noise_of_a_large_seed():
    assert torch.isfinite(noise_of((4,), seed=2**63 - 1, step=10**6)[0]).all()


@given(any_scores)
def test_open_probability_is_how_often_the_gate_opens(scores):
    ours = binarizers.open_probability(torch.from_numpy(scores)).numpy()
    wanted = reference.sigmoid(scores.astype(np.float64) - 2 / 3 * np.log(0.1 / 1.1))
    np.testing.assert_allclose(ours, wanted, **FLOAT32)


def test_open_probability_of_drawn_gates():
    scores = torch.tensor([-1.5, 0.0, 1.0])
    (noise,) = noise_of((100_000, 3), seed=0, step=0)
    opened = (binarizers.hard_concrete(scores.expand_as(noise), noise) > 0).float().mean(dim=0)
    np.testing.assert_allclose(opened, binarizers.open_probability(scores), atol=0.007)  # 4 standard errors


def test_by_hand():
    scores = torch.tensor([[0.1, 0.4], [0.3, 0.2]])
    assert binarizers.topk(scores, 0.5).tolist() == [[0, 1], [1, 0]]
    assert binarizers.threshold(scores, 0.2).tolist() == [[0, 1], [1, 0]]  # above, not at
    assert binarizers.threshold(scores, 9.0, floor=0.005).tolist() == [[0, 1], [0, 0]]
    assert binarizers.n_of_m(scores, 1, 2).tolist() == [[0, 1], [1, 0]]
    equal = torch.zeros(1000)
    assert binarizers.topk(equal, 0.3).nonzero().flatten().tolist() == list(range(300))


def test_block_magnitude_is_the_mean_not_the_largest():
    weight = torch.tensor([[9.0, 0.0, 3.0, -3.0]])
    assert binarizers.magnitude(weight, Block(1, 2), 0.5).tolist() == [[1, 0]]
    assert binarizers.magnitude(torch.tensor([[5.0, 0.0, 3.0, -3.0]]), Block(1, 2), 0.5).tolist() == [[0, 1]]
