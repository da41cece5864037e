"""The values of the 2021 reference implementation, six decimals; its known defects are asserted not to be matched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prune_core.granularity import Block, Column, Element, Granularity, Row, RowsColumns
from prune_core.kit import binarizers, penalties
from prune_core.kit.distillation import logits_loss
from prune_core.kit.masked import Masking, attach
from prune_core.kit.schedules import Schedule
from prune_core.kit.scores import GroupPlan, ScoreGroup, Target
from prune_core.strategy import Progress
from tests.parity import reference

CASES = json.loads(Path(__file__).with_name("golden_values.json").read_text(encoding="utf-8"))["cases"]
PRINTED = 0.6e-6
"""Half of the last printed decimal, and a little for float32."""
TESTED: set[str] = set()


def cases(*names: str) -> Any:
    TESTED.update(names)
    found = [case for case in CASES if case["case"] in names]
    assert {case["case"] for case in found} == set(names)
    return pytest.mark.parametrize("case", found)


def tensor(case: dict[str, Any], name: str) -> Tensor:
    return torch.tensor(case[name], dtype=torch.float32)


def expanded(case: dict[str, Any], granularity: Granularity, scores: Tensor) -> list[Any]:
    mask = binarizers.sigmoid_threshold(scores, case["threshold"])
    return granularity.expand(mask, np.shape(case["mask"])).tolist()


@cases("threshold")
def test_threshold(case: dict[str, Any]) -> None:
    mask = binarizers.threshold(tensor(case, "scores"), case["threshold"], case["floor"])
    assert mask.tolist() == case["mask"]


@cases("sigmoid_threshold", "sigmoid_threshold_floor")
def test_sigmoid_threshold(case: dict[str, Any]) -> None:
    mask = binarizers.sigmoid_threshold(tensor(case, "scores"), case["threshold"], case["floor"])
    assert mask.tolist() == case["mask"]


@cases("topk")
def test_topk(case: dict[str, Any]) -> None:
    assert binarizers.topk(tensor(case, "scores"), case["density"]).tolist() == case["mask"]


@cases("magnitude")
def test_magnitude(case: dict[str, Any]) -> None:
    assert binarizers.magnitude(tensor(case, "weight"), Element(), case["density"]).tolist() == case["mask"]


@cases("two_of_four")
def test_two_of_four(case: dict[str, Any]) -> None:
    assert binarizers.n_of_m(tensor(case, "scores"), 2, 4).tolist() == case["mask"]


@cases("hard_concrete_eval")
def test_hard_concrete_in_evaluation(case: dict[str, Any]) -> None:
    mask = binarizers.hard_concrete_mean(tensor(case, "scores"))
    torch.testing.assert_close(mask, tensor(case, "mask"), rtol=0, atol=1.1 * PRINTED)  # the scores are rounded too


@cases("block_expand")
def test_blocks(case: dict[str, Any]) -> None:
    assert expanded(case, Block(*case["block"]), tensor(case, "scores")) == case["mask"]


@cases("rows_only")
def test_rows(case: dict[str, Any]) -> None:
    assert expanded(case, Row(), tensor(case, "row_scores")) == case["mask"]


@cases("columns_only")
def test_columns(case: dict[str, Any]) -> None:
    assert expanded(case, Column(), tensor(case, "column_scores")) == case["mask"]


@cases("rows_times_columns")
def test_two_negative_scores_do_not_survive(case: dict[str, Any]) -> None:
    """The old library cut the product of the two scores; here a weight needs its row and its column."""
    rows, columns = (np.array(case[name]) for name in ("row_scores", "column_scores"))
    wanted = np.outer(reference.sigmoid(rows) > case["threshold"], reference.sigmoid(columns) > case["threshold"])
    ours = expanded(case, RowsColumns(), torch.cat([tensor(case, "row_scores"), tensor(case, "column_scores")]))
    assert ours == wanted.astype(float).tolist()
    assert ours != case["mask"]


@cases("movement_gradient")
def test_movement_gradient(case: dict[str, Any]) -> None:
    scores, weight = tensor(case, "scores"), tensor(case, "weight")
    model, target = torch.nn.Module(), Target("layer", Block(*case["block"]))
    model.layer = torch.nn.Linear(*weight.shape[::-1], bias=False, dtype=weight.dtype)
    model.layer.load_state_dict({"weight": weight})
    model.group = ScoreGroup(GroupPlan("group", "ffn", (target,)), scores, 1)
    model.group.mask.copy_(binarizers.sigmoid_threshold(scores, case["threshold"]))
    attach(model, Masking(model.group, target))
    model.layer(tensor(case, "x")).backward(tensor(case, "upstream"))
    close = {"rtol": 0, "atol": 5e-6}  # sums of products of numbers that were rounded at the sixth decimal
    torch.testing.assert_close(model.group.scores.grad, tensor(case, "grad_scores"), **close)
    torch.testing.assert_close(model.layer.weight.grad, tensor(case, "grad_weight"), **close)


@cases("penalty_l1")
def test_l1(case: dict[str, Any]) -> None:
    assert penalties.l1(tensor(case, "scores")).item() == pytest.approx(case["value"], abs=PRINTED)


@cases("penalty_l0")
def test_l0(case: dict[str, Any]) -> None:
    assert penalties.l0(tensor(case, "scores")).item() == pytest.approx(case["value"], abs=PRINTED)


@cases("schedule_cubic")
def test_cubic_schedule(case: dict[str, Any]) -> None:
    """Warm-ups are multiples of `warmup_steps` there, shares of the steps here."""
    unit = case["warmup_steps"] / case["total_steps"]
    schedule = Schedule(case["start"], case["end"], case["initial_warmup"] * unit, case["final_warmup"] * unit)
    for step, value, penalty in case["step_value_penalty"]:
        at = Progress(step, case["total_steps"])
        assert schedule.value(at) == pytest.approx(value, abs=1e-12)
        assert case["penalty_weight"] * schedule.progress(at) == pytest.approx(penalty, abs=1e-12)


@cases("distillation_kl")
def test_distillation(case: dict[str, Any]) -> None:
    loss = logits_loss(tensor(case, "student"), tensor(case, "teacher"), case["temperature"])
    assert loss.item() == pytest.approx(case["value"], abs=PRINTED)


def test_every_case_is_tested() -> None:
    assert {case["case"] for case in CASES} == TESTED
