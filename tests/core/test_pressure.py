"""The pressure on scores: a Lagrangian whose target ramps down to the share that the masks may keep."""

import numpy as np
import pytest

from tests.core.loops import ONE_UNIT, Training, groups_of, small_units, stored_density
from tests.parity import reference


@pytest.mark.parametrize("binarizer", ["threshold", "hard_concrete"])
def test_pressure_is_the_lagrangian_of_the_share_of_open_units(binarizer):
    model = small_units()
    training = Training(model, "structured", 40, density=0.3, binarizer=binarizer, ffn_weight=2.0).run(8)
    shares, sizes = [], []
    for group in groups_of(model):
        scores = group.scores.detach().double().numpy()
        share = reference.l0(scores) if binarizer == "hard_concrete" else float((scores > 0).mean())
        shares.append(share)
        sizes.append(group.cost * scores.size * (2.0 if group.plan.part == "ffn" else 1.0))
    state = model.pruning.lagrangians[0]
    ramp = (8 - 2) / (2 / 3 * (28 - 2))  # linear, over after two thirds of the way
    assert state.target.item() == pytest.approx(1 - 0.7 * ramp)
    density = float(np.average(shares, weights=sizes))
    wanted = reference.lagrangian(state.multipliers.tolist(), density, state.target.item())
    assert training.pruning.penalty().item() == pytest.approx(wanted, rel=1e-5)
    assert wanted != 0


def test_pressure_aims_at_the_share_of_what_may_go():
    """With half the prunable weights left alone, 0.6 of all is 0.2 of the rest."""
    model = small_units()
    options = {"density": 0.6, "exclude": ("layer.0.*",), "binarizer": "threshold"}
    training = Training(model, "structured", 10, **options).run(9)
    assert model.pruning.lagrangians[0].target.item() == pytest.approx(0.2)
    assert 0.6 - ONE_UNIT["structured"] < stored_density(model, training.pruning.finish()) <= 0.6


@pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.5), (0.5, 0.3), (0.7, 0.1)])
def test_pressure_has_arrived_before_the_masks_are_final(warmup, cooldown):
    model = small_units()
    training = Training(model, "structured", 100, density=0.4, warmup=warmup, cooldown=cooldown)
    targets = []
    for step in range(round(100 * (1 - cooldown))):
        training.pruning.resume(step)
        targets.append(model.pruning.lagrangians[0].target.item())
    assert targets[int(100 * warmup)] == 1.0
    assert targets == sorted(targets, reverse=True)
    assert len(set(targets)) > 10  # a ramp, not a jump
    assert targets[-1] == pytest.approx(0.4)
