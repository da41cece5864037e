"""Penalties, schedules and distillation against the reference, and cases worked by hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prune_core.kit import penalties
from prune_core.kit.distillation import hidden_loss, logits_loss, regression_loss
from prune_core.kit.schedules import Schedule
from prune_core.strategy import Progress
from tests.parity import reference

ROUNDING = {"rtol": 1e-11, "atol": 1e-13}
"""Two orders of the same float64 sums."""

any_scores = arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=2), elements=st.floats(-9, 9))
logits = arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(-9, 9))


@given(any_scores)
def test_l1(scores):
    np.testing.assert_allclose(penalties.l1(torch.from_numpy(scores)).item(), reference.l1(scores), **ROUNDING)


@given(any_scores)
def test_l0(scores):
    np.testing.assert_allclose(penalties.l0(torch.from_numpy(scores)).item(), reference.l0(scores), **ROUNDING)


def test_costs_by_hand():
    assert penalties.l1(torch.zeros(3)).item() == 0.5
    # sigmoid(0 - 2/3 log(1/11)) = 1 / (1 + 11^(-2/3))
    assert penalties.l0(torch.zeros(3)).item() == pytest.approx(1 / (1 + 11 ** (-2 / 3)), abs=1e-7)


@given(any_scores)
def test_count_is_exact_and_its_gradient_that_of_the_sigmoid(scores):
    learned = torch.from_numpy(scores).requires_grad_()
    count = penalties.open_count(learned)
    np.testing.assert_allclose(count.detach(), scores > 0, atol=1e-15)
    count.sum().backward()
    soft = reference.sigmoid(scores)
    np.testing.assert_allclose(learned.grad, soft * (1 - soft), **ROUNDING)


@given(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), st.floats(0, 1), st.floats(0, 1))
def test_lagrangian(multipliers, density, target):
    cost = penalties.Lagrangian().double()
    with torch.no_grad():
        cost.multipliers.copy_(torch.tensor(multipliers, dtype=torch.float64))
        cost.target.fill_(target)
    held = torch.tensor(density, dtype=torch.float64, requires_grad=True)
    value = cost(held)
    value.backward()
    np.testing.assert_allclose(value.item(), reference.lagrangian(multipliers, density, target), **ROUNDING)
    gap = density - target
    np.testing.assert_allclose(held.grad.item(), multipliers[0] + 2 * multipliers[1] * gap, **ROUNDING)
    np.testing.assert_allclose(cost.multipliers.grad, [gap, gap**2], **ROUNDING)


def test_lagrangian_starts_without_force():
    assert penalties.Lagrangian()(torch.tensor(0.7)).item() == 0


@st.composite
def schedules(draw):
    total = draw(st.integers(1, 100))
    warmup, cooldown = draw(st.floats(0, 0.95)), draw(st.floats(0, 0.95))
    scale = max(1.0, (warmup + cooldown) / 0.95)
    return total, warmup / scale, cooldown / scale


@given(schedules(), st.floats(-2, 2), st.floats(-2, 2))
def test_cubic(case, start, end):
    total, warmup, cooldown = case
    schedule = Schedule(start, end, warmup, cooldown)
    steps = range(total + 2)
    wanted = np.array([reference.cubic(step, total, warmup * total, cooldown * total) for step in steps])
    np.testing.assert_allclose([schedule.progress(Progress(step, total)) for step in steps], wanted, atol=1e-12)
    wanted = reference.scheduled(start, end, wanted)
    np.testing.assert_allclose([schedule.value(Progress(step, total)) for step in steps], wanted, atol=1e-12)


@given(schedules())
def test_constant_in_warmup_and_cooldown_and_monotone_between(case):
    total, warmup, cooldown = case
    for shape in ("cubic", "linear"):
        schedule = Schedule(1.0, 0.25, warmup, cooldown, shape)
        values = [schedule.value(Progress(step, total)) for step in range(total + 1)]
        assert all(value == 1.0 for step, value in enumerate(values) if step <= warmup * total)
        assert all(value == 0.25 for step, value in enumerate(values) if step >= (1 - cooldown) * total)
        assert all(later <= earlier for earlier, later in pairwise(values))
        assert values[-1] == 0.25


def test_schedules_by_hand():
    """From 1 to 0 over steps 2 to 6 of 10: half way the cubic has 1/8 left, the linear one half."""
    cubic, linear = Schedule(1, 0, 0.2, 0.4), Schedule(1, 0, 0.2, 0.4, "linear")
    assert [cubic.value(Progress(step, 10)) for step in (0, 2, 4, 6, 10)] == [1, 1, 0.125, 0, 0]
    assert [linear.value(Progress(step, 10)) for step in (0, 2, 3, 4, 6, 10)] == [1, 1, 0.75, 0.5, 0, 0]
    constant = Schedule(1, 0.3, 0.2, 0.4, "constant")
    assert [constant.value(Progress(step, 10)) for step in range(11)] == pytest.approx([0.3] * 11)
    assert Schedule(1, 0.25).value(Progress(0, 0)) == 0.25  # a training of no step has arrived


@given(st.data(), logits, st.floats(0.5, 8))
def test_distillation(data, student, temperature):
    teacher = data.draw(arrays.arrays(np.float64, student.shape, elements=st.floats(-9, 9)))
    loss = logits_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    wanted = reference.distillation(student, teacher, temperature)
    np.testing.assert_allclose(loss.item(), wanted, rtol=1e-9, atol=1e-12)
    assert loss.item() >= -1e-12


def test_distillation_by_hand():
    """Teacher 1/2, 1/2 and student 3/4, 1/4 at T = 1: KL = (log 2/3 + log 2) / 2; at T, with logits T times as far."""
    divergence = (np.log(2 / 3) + np.log(2)) / 2
    student, teacher = torch.tensor([[np.log(3.0), 0.0]]).double(), torch.zeros(1, 2).double()
    for temperature in (1.0, 2.0):
        loss = logits_loss(student * temperature, teacher, temperature)
        assert loss.item() == pytest.approx(temperature**2 * divergence, rel=1e-12)
    assert logits_loss(student, student, 2.0).item() == 0


def test_distillation_of_spans_counts_every_position():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    wanted = reference.distillation(student.numpy(), teacher.numpy(), 2.0)
    assert logits_loss(student, teacher, 2.0).item() == pytest.approx(wanted, rel=1e-12)


def test_distillation_gradient():
    """T^2 KL has the gradient T (softmax(student / T) - softmax(teacher / T)) / batch."""
    torch.manual_seed(0)
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64)
    logits_loss(student, teacher, 2.0).backward()
    q = np.exp(reference.log_softmax(student.detach().numpy() / 2))
    p = np.exp(reference.log_softmax(teacher.numpy() / 2))
    np.testing.assert_allclose(student.grad, 2 * (q - p) / 3, **ROUNDING)


@pytest.mark.parametrize("masked", [False, True])
def test_hidden_states(masked):
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 3, 4, 5, 6))  # layers, batch, tokens, features
    attended = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    mask = torch.from_numpy(attended) if masked else None
    loss = hidden_loss([*torch.from_numpy(student)], [*torch.from_numpy(teacher)], mask)
    wanted = reference.hidden_states(student, teacher, attended)
    np.testing.assert_allclose(loss.item(), wanted, **ROUNDING)


def test_hidden_states_of_padding_do_not_count():
    student, teacher = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    student[0, 1] = 5.0
    assert hidden_loss([student], [teacher], torch.tensor([[1, 0]])).item() == 0
    assert hidden_loss([student], [teacher], torch.tensor([[1, 1]])).item() == 12.5


def test_regression_is_the_mean_squared_error():
    assert regression_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])).item() == 2.5
