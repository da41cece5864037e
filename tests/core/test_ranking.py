"""How the scores of unlike groups are compared: shares, bundles of neurons, blocks by the mean of their head."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_core.granularity import Block, Head, Neuron
from prune_core.kit.cut import Slice
from prune_core.kit.ranking import in_multiples, shares, with_their_unit
from prune_core.kit.scores import GroupPlan, ScoreGroup, Target
from prune_core.structure import WHOLE
from prune_core.testing.tiny import tiny_model
from tests.core.loops import Training, groups_of, small_units, stored_density

scores = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40).map(torch.tensor)


@given(scores, st.floats(0, 0.99))
def test_shares_keep_the_order_and_are_as_many_as_the_scores(values, offset):
    found = shares(values, offset)
    assert sorted(found.tolist()) == pytest.approx([(rank + offset) / len(values) for rank in range(len(values))])
    order = found.argsort()
    assert (values[order].diff() >= 0).all()


@given(scores, st.integers(1, 9), st.floats(-10, 10))
def test_any_cut_keeps_a_multiple_of_the_highest(values, multiple, cut):
    kept = in_multiples(values, multiple) > cut
    count = int(kept.sum())
    assert count % multiple == 0 or count == len(values)
    if 0 < count < len(values):
        assert values[kept].min() >= values[~kept].max()


def slice_of(target: Target, shape, width: int, axis, part=WHOLE) -> Slice:
    blocks = torch.zeros(target.granularity.score_shape(shape))
    return Slice(ScoreGroup(GroupPlan("g", "attention", (target,)), blocks, 1), target, shape, Head(width, axis), part)


def test_blocks_are_bounded_by_the_mean_of_their_head():
    """Two heads of 4 rows, blocks of 2x2 in a weight of 8x4: four rows of two blocks."""
    values = torch.tensor([[1.0, 3.0], [2.0, 6.0], [0.0, 8.0], [0.0, 0.0]])
    heads = slice_of(Target("layer", Block(2, 2)), (8, 4), 4, "rows")
    assert with_their_unit(values, heads).tolist() == [[1, 3], [2, 3], [0, 2], [0, 0]]
    columns = slice_of(Target("layer", Block(2, 2), consumer=True), (4, 8), 4, "columns")
    assert with_their_unit(values.T, columns).tolist() == [[1, 2, 0, 0], [3, 3, 2, 0]]
    turned = slice_of(Target("layer", Block(2, 2), transposed=True), (4, 8), 4, "columns")
    assert with_their_unit(values, turned).tolist() == [[1, 3], [2, 3], [0, 2], [0, 0]]


def test_a_block_over_two_heads_lives_with_the_better_one():
    values = torch.tensor([[1.0, 5.0]])
    heads = slice_of(Target("layer", Block(4, 2)), (4, 4), 2, "rows")
    assert with_their_unit(values, heads).tolist() == [[1, 3]]


def test_one_score_a_unit_is_left_as_it_is():
    values = torch.tensor([3.0, 1.0])
    for granularity in (Head(2, "rows"), Neuron(2, "rows")):
        assert with_their_unit(values, slice_of(Target("layer", granularity), (4, 4), 2, "rows")) is values


@pytest.mark.parametrize("strategy", ["structured", "hybrid"])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_neurons_stay_in_multiples(strategy, multiple):
    model = small_units()
    masks = Training(model, strategy, 10, density=0.4, neuron_multiple=multiple).run().pruning.finish()
    for layer in range(2):
        kept = int(masks[f"bert.encoder.layer.{layer}.intermediate.dense.weight"].values.sum())
        assert kept % multiple == 0
    assert 0.4 - 512 / 16384 < stored_density(model, masks) <= 0.4


def test_hybrid_removes_heads_as_well_as_neurons():
    """Equal scores all over: heads and neurons go in like shares, though a head has many blocks to live by."""
    model = tiny_model("bert", heads=8, layers=4, hidden_size=64, intermediate_size=256)
    training = Training(model, "hybrid", 10, density=0.35, attention_block=(8, 8)).run(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in groups_of(model):
            group.scores.copy_(torch.randn(group.scores.shape, generator=generator))
    masks = training.pruning.finish()
    alive = [masks[f"bert.encoder.layer.{n}.attention.output.dense.weight"].expand().any(dim=0) for n in range(4)]
    assert torch.stack(alive).float().mean() < 0.9
