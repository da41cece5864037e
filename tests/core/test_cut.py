"""The cut never leaves more than the budget, and the next unit would not fit: by brute force over expanded masks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from prune_core.granularity import Block, Element
from prune_core.kit import layouts
from prune_core.kit.binarizers import smallest
from prune_core.kit.cut import SAMPLE, OwnUnits, cut_threshold, sliced_units, stored_weights
from prune_core.kit.scores import GroupPlan, ScoreGroup, Target
from prune_core.structure import Attention, FeedForward


def attention(model: nn.Module, key: str, heads: int, shared: int, size: int, form: str = "separate") -> Attention:
    """An attention unit of `heads` query heads and `shared` key/value heads, with its linears."""
    widths = {"query": heads * size, "key": shared * size, "value": shared * size}
    if form == "separate":
        for role, width in widths.items():
            model.add_module(f"{key}_{role}", nn.Linear(HIDDEN, width))
    else:
        model.add_module(f"{key}_query", layer(form, HIDDEN, sum(widths.values())))
    model.add_module(f"{key}_output", layer(form, heads * size, HIDDEN))
    paths = [f"{key}_{role if form == 'separate' else 'query'}" for role in widths]
    counts = {"heads": heads, "key_value_heads": shared, "head_size": size}
    return Attention(
        key, key, *paths, f"{key}_output", **counts, by_head=form == "by head", turned=form == "fused, turned"
    )


def feed_forward(model: nn.Module, key: str, size: int, *, gated: bool, form: str = "separate") -> FeedForward:
    fused, turned = form != "separate", form == "fused, turned"
    for role in ("up", "gate") if gated and not fused else ("up",):
        model.add_module(f"{key}_{role}", layer(form, HIDDEN, size * (2 if gated and fused else 1)))
    model.add_module(f"{key}_down", layer(form, size, HIDDEN))
    gate = f"{key}_up" if fused else f"{key}_gate"
    return FeedForward(key, f"{key}_up", gate if gated else None, f"{key}_down", "act", size, turned)


def layer(form: str, inputs: int, outputs: int) -> nn.Module:
    return Conv1D(outputs, inputs) if form == "fused, turned" else nn.Linear(inputs, outputs)


HIDDEN = 12
FORMS = ("separate", "fused", "fused, turned", "by head")
BLOCKS = [Block(1, 1), Block(2, 3), Block(3, 2), Block(6, 4), Block(6, 6), Block(6, 12)]
"""Smaller than a head of 3, as large, and over two or four of them; they divide 6 rows and 12 columns."""


@dataclass
class Case:
    model: nn.Module
    units: list
    groups: list[ScoreGroup]

    def masks(self, keep) -> dict[str, np.ndarray]:
        """Expanded masks by linear, when `keep` says which scores survive."""
        found = {}
        for group in self.groups:
            for target in group.plan.targets:
                weight = self.model.get_submodule(target.module).weight
                mask = target.orient(keep(group.scores.detach()).float())
                found[target.module] = target.granularity.expand(mask, tuple(weight.shape)).bool().numpy()
        return found

    def masked_units(self, masks):
        return [unit for unit in self.units if next(iter(unit.linears())) in masks]

    def stored(self, keep) -> int:
        """Weights that remain stored, by the definition of density: whole heads and neurons."""
        masks, total = self.masks(keep), 0
        for unit in self.masked_units(masks):
            alive = living(unit, masks)
            total += int(alive.sum()) * sum(masks[name].size for name in unit.linears()) // len(alive)
        return total

    def stored_sparse(self, keep) -> int:
        """The same where zeros are left out: weights that survive, in heads and neurons that do."""
        masks, total = self.masks(keep), 0
        for unit in self.masked_units(masks):
            for name in unit.linears():
                mask, owners = plain(unit, masks, name), owners_of(unit, name)
                alive = living(unit, masks)[owners]
                last = name in (getattr(unit, "output", None), getattr(unit, "down", None))
                total += int((mask & (alive if last else alive[:, None])).sum())
        return total


def plain(unit, masks, name) -> np.ndarray:
    """A mask [out, in]."""
    return masks[name].T if unit.turned else masks[name]


def owners_of(unit, name) -> np.ndarray:
    """The head or neuron of every output of a linear (of every input, of the last one)."""
    every = np.arange(unit.count)
    if isinstance(unit, FeedForward):
        return np.concatenate([every, every]) if unit.gate == unit.up == name else every
    one = unit.head_size
    group = one * (unit.heads // unit.key_value_heads)
    if name == unit.output or unit.query != unit.value:
        return np.repeat(every, group if name in (unit.query, unit.output) else one)
    if unit.by_head:
        return np.repeat(every, group + 2 * one)
    return np.concatenate([np.repeat(every, group), np.repeat(every, one), np.repeat(every, one)])


def living(unit, masks) -> np.ndarray:
    """Which heads (of key and value) or neurons still do something."""
    last = unit.down if isinstance(unit, FeedForward) else unit.output
    read = plain(unit, masks, last).any(axis=0)
    if isinstance(unit, FeedForward):
        up = plain(unit, masks, unit.up).any(axis=1)
        gate = plain(unit, masks, unit.gate).any(axis=1) if unit.gate else up
        if unit.gate == unit.up:
            gate, up = up[: unit.size], up[unit.size :]
        return read & up & gate
    values = plain(unit, masks, unit.value).any(axis=1)
    if unit.query == unit.value and unit.by_head:
        values = values.reshape(unit.count, 3, -1)[:, 2]
    elif unit.query == unit.value:
        values = values[-unit.count * unit.head_size :]
    return values.reshape(unit.count, -1).any(axis=1) & read.reshape(unit.count, -1).any(axis=1)


def group_of(model: nn.Module, plan: GroupPlan, draw_scores) -> ScoreGroup:
    weights = [model.get_submodule(target.module).weight for target in plan.targets]
    shape = plan.targets[0].granularity.score_shape(tuple(weights[0].shape))
    scores = torch.from_numpy(draw_scores(shape)).float()
    return ScoreGroup(plan, scores, sum(weight.numel() for weight in weights) // scores.numel())


@st.composite
def plans(draw, unit):
    """Groups of scores of a unit: whole heads or neurons, head slices, blocks, a joint block mask, or none."""
    block = draw(st.sampled_from(BLOCKS))
    if isinstance(unit, FeedForward):
        return draw(st.sampled_from([layouts.neurons(unit), layouts.separate(unit, block), []]))
    choices = [layouts.heads(unit), layouts.head_slices(unit), layouts.separate(unit, block), []]
    if unit.heads == unit.key_value_heads and unit.query != unit.value:
        choices.append(layouts.joint(unit, block))
    return draw(st.sampled_from(choices))


@st.composite
def models(draw):
    model, units = nn.Module(), []
    for index in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            heads, shared, size = draw(st.sampled_from([(4, 4, 3), (4, 2, 3), (4, 1, 6), (2, 2, 6), (4, 2, 6)]))
            forms = FORMS if heads == shared else FORMS[:-1]
            units.append(attention(model, f"attention{index}", heads, shared, size, draw(st.sampled_from(forms))))
        else:
            size, gated, form = draw(st.sampled_from([12, 24])), draw(st.booleans()), draw(st.sampled_from(FORMS[:-1]))
            units.append(feed_forward(model, f"ffn{index}", size, gated=gated, form=form))
    found = [plan for unit in units for plan in draw(plans(unit))]
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([3, 10**9]))  # few levels: many ties
    groups = [group_of(model, plan, lambda shape: generator.integers(0, levels, shape) / levels) for plan in found]
    return Case(model, units, groups)


def bare(groups) -> dict[str, torch.Tensor]:
    """A ranking by the scores themselves."""
    return {group.plan.name: group.scores.detach() for group in groups}


def check(case: Case, units, budget: float, count) -> None:
    cut = cut_threshold(units, bare(case.groups), budget)
    assert cut.shape == ()
    assert count(lambda scores: scores > cut) <= budget + 1e-3
    if torch.isinf(cut):
        assert count(lambda scores: scores > -torch.inf) <= budget + 1e-3
    else:  # with the next unit, and those that tie with it, it is too much
        assert count(lambda scores: scores >= cut) > budget


@settings(max_examples=40)
@given(models(), st.floats(0, 1.1))
def test_heads_and_neurons(case, share):
    units = [found for unit in case.units if (found := sliced_units(case.model, unit, case.groups))]
    total = case.stored(lambda scores: torch.ones_like(scores))
    assert total == sum(unit.cost * unit.life(bare(case.groups)).numel() for unit in units)
    if units:
        check(case, units, share * total, case.stored)


@given(models(), st.floats(0, 1.1))
def test_scores_of_their_own(case, share):
    def held(keep) -> int:
        return sum(group.cost * int(keep(group.scores.detach()).sum()) for group in case.groups)

    units = [OwnUnits(group) for group in case.groups]
    if units:
        check(case, units, share * held(lambda scores: torch.ones_like(scores)), held)


@settings(max_examples=40)
@given(models(), st.floats(0, 1.1))
def test_weights_where_zeros_are_left_out(case, share):
    units = [found for unit in case.units for found in stored_weights(case.model, unit, case.groups)]
    total = case.stored_sparse(lambda scores: torch.ones_like(scores))
    assert total == sum(unit.life(bare(case.groups)).numel() for unit in units)
    if units:
        check(case, units, share * total, case.stored_sparse)


@given(models())
def test_a_life_ends_where_the_brute_force_says(case):
    """Between two lives nothing changes, and at each one something dies."""
    units = [found for unit in case.units if (found := sliced_units(case.model, unit, case.groups))]
    if not units:
        return
    lives = torch.cat([unit.life(bare(case.groups)) for unit in units])
    costs = torch.cat([torch.full(unit.life(bare(case.groups)).shape, unit.cost) for unit in units])
    for life in lives.unique().tolist():
        assert case.stored(lambda scores, at=life: scores > at) == int(costs[lives > life].sum())


def test_by_hand():
    """Two heads of 288 weights and six neurons of 24: the most valuable ones that fit, in order."""
    model = nn.Module()
    big, small = attention(model, "a", 2, 2, 6), feed_forward(model, "f", 6, gated=False)
    heads, neurons = layouts.heads(big), layouts.neurons(small)
    scores = iter([[0.9, 0.5], [0.1, 0.2, 0.3, 0.4, 0.6, 0.7]])
    groups = [group_of(model, plan, lambda _: np.array(next(scores))) for plan in heads + neurons]
    units = [sliced_units(model, unit, groups) for unit in (big, small)]
    assert [unit.cost for unit in units] == [4 * 12 * 6, 2 * 12]
    cuts = {0: 0.9, 287: 0.9, 288: 0.7, 311: 0.7, 312: 0.6, 336: 0.5, 623: 0.5, 624: 0.4, 719: 0.1, 720: -torch.inf}
    for budget, cut in cuts.items():
        assert cut_threshold(units, bare(groups), budget).item() == pytest.approx(cut), budget


def test_a_head_of_which_value_or_output_is_gone_is_gone_and_one_without_query_or_key_is_not():
    model = nn.Module()
    unit = attention(model, "a", 2, 2, 6)
    plans = layouts.head_slices(unit)
    values = {"a.query": [0.0, 0.0], "a.key": [0.0, 0.0], "a.value": [3.0, 1.0], "a.attention_output": [2.0, 4.0]}
    groups = [group_of(model, plan, lambda _, name=plan.name: np.array(values[name])) for plan in plans]
    assert sliced_units(model, unit, groups).life(bare(groups)).tolist() == [2.0, 1.0]


def test_a_unit_without_scores_is_none():
    model = nn.Module()
    unit = attention(model, "a", 2, 2, 6)
    assert sliced_units(model, unit, []) is None


@pytest.fixture
def many() -> ScoreGroup:
    torch.manual_seed(0)
    return ScoreGroup(GroupPlan("many", "ffn", (Target("layer", Element()),)), torch.randn(3 * SAMPLE), 1)


def test_a_large_cut_is_exact_when_asked(many):
    cut = cut_threshold([OwnUnits(many)], bare([many]), 100_001.5)
    assert int((many.scores > cut).sum()) == 100_001


def test_a_large_cut_is_sampled_within_its_error(many):
    standard_error = 0.5 / SAMPLE**0.5
    for density in (0.05, 0.35, 0.9):
        cut = cut_threshold([OwnUnits(many)], bare([many]), density * many.scores.numel(), exact=False)
        assert (many.scores > cut).float().mean().item() == pytest.approx(density, abs=4 * standard_error)


@pytest.mark.gpu
def test_a_gpu_cuts_where_the_cpu_does():
    values = torch.randn(10_000)
    for k in (1, 17, 10_000):
        assert smallest(values.cuda(), k).cpu() == smallest(values, k)


def test_costs_are_exact_in_scores_of_low_precision():
    """257 and 2 weights: bfloat16 knows no 257."""
    groups = [
        ScoreGroup(GroupPlan(name, "ffn", (Target("layer", Element()),)), torch.tensor(scores).bfloat16(), cost)
        for name, scores, cost in (("a", [4.0, 3.0], 257), ("b", [2.0], 2))
    ]
    units = [OwnUnits(group) for group in groups]
    assert cut_threshold(units, bare(groups), 513).item() == 3.0
    assert cut_threshold(units, bare(groups), 514).item() == 2.0
