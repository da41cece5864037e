"""What a configuration does to a model: scope, exclude, patterns, penalty weights, and what is refused."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from prune_block.config import BlockConfig
from prune_core.compaction import compact
from prune_core.errors import RecipeError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.granularity import Element
from prune_core.kit.config import MaskingConfig
from prune_core.kit.masking import MaskingStrategy
from prune_core.kit.scores import GroupPlan, Target
from prune_core.pruning import Pruning
from prune_core.strategy import Progress
from prune_core.structure import Attention
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_model
from prune_unstructured.config import UnstructuredConfig
from tests.core.loops import (
    ONE_UNIT,
    STRATEGIES,
    Training,
    groups_of,
    logits,
    masked_share,
    same,
    small_units,
    stored_density,
)
from tests.parity import reference


def layers(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


# Scope


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("unstructured", {}),
        ("block", {}),
        ("structured", {"neuron_multiple": 1}),
        ("structured", {"attention": "slices"}),
    ],
)
def test_local_scope_keeps_the_same_share_of_every_group(strategy, options):
    """To one score (or bundle of neurons), and what is stored is what was asked: no head or neuron is empty yet."""
    model = small_units()
    training = Training(model, strategy, 10, density=0.7, scope="local", **options).run()
    kept = {group.plan.name: (int((group.mask > 0).sum()), group.scores.numel()) for group in groups_of(model)}
    most = max((count - 1) / size for count, size in kept.values())
    for name, (count, size) in kept.items():
        bundle = 8 if name.endswith("neurons") and "neuron_multiple" not in options else 1
        assert (count + bundle) / size > most, name
    assert 0.7 - ONE_UNIT[strategy] < stored_density(model, training.pruning.finish()) <= 0.7


def test_hybrid_lands_in_local_scope():
    model = small_units()
    masks = Training(model, "hybrid", 10, density=0.4, scope="local").run().pruning.finish()
    assert 0.4 - ONE_UNIT["hybrid"] < stored_density(model, masks) <= 0.4


def test_global_scope_does_not():
    model = small_units()
    Training(model, "unstructured", 10, density=0.4).run()
    assert len({float((group.mask > 0).float().mean()) for group in groups_of(model)}) > 2


def test_local_scope_makes_up_for_what_is_left_alone():
    model = small_units()
    options = {"density": 0.6, "scope": "local", "exclude": ("layer.0.ffn",)}
    masks = Training(model, "unstructured", 10, **options).run().pruning.finish()
    assert masked_share(model, masks) == pytest.approx(0.6, abs=0.001)


# Exclude


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_excluded_units_are_left_alone_and_the_others_make_up_for_it(strategy):
    model = small_units()
    options = {"density": 0.5, "exclude": ("layer.0.attention", "*.1.ff?")}
    training = Training(model, strategy, 12, **options)
    excluded = {
        **structure_of(model).unit("layer.0.attention").linears(),
        **structure_of(model).unit("layer.1.ffn").linears(),
    }
    for name in excluded:
        assert type(model.get_submodule(name)) is nn.Linear
    masks = training.run().pruning.finish()
    assert not [name for name in masks if name.rpartition(".")[0] in excluded]
    for name in excluded:
        assert (model.get_submodule(name).weight != 0).all()
    assert 0.5 - ONE_UNIT[strategy] < stored_density(model, masks) <= 0.5


def test_density_that_the_excluded_parts_exceed():
    model = small_units()
    before = layers(model)
    with pytest.raises(StructureError, match=r"density 0\.2 cannot be reached: the parts left alone hold 0\.250"):
        Training(model, "structured", 10, density=0.2, exclude=("layer.0.attention",))
    assert layers(model) == before


def test_density_that_the_excluded_parts_exhaust():
    model = small_units()
    masks = Training(model, "structured", 10, density=0.25, exclude=("layer.0.attention",)).run().pruning.finish()
    assert stored_density(model, masks) == 0.25
    assert [report.kept for report in compact(model, masks).units] == [tuple(range(8)), (), (), ()]


def test_pattern_that_matches_nothing():
    said = r"'layer\.9\.\*' names no prunable unit; there are layer\.0\.attention, layer\.0\.ffn, layer\.1\.attention"
    with pytest.raises(StructureError, match=said):
        Training(small_units(), "hybrid", 10, density=0.5, exclude=("layer.0.*", "layer.9.*"))


def test_nothing_is_left_to_prune():
    with pytest.raises(StructureError, match=r"nothing to prune: .* leave none of layer\.0\.attention"):
        Training(small_units(), "block", 10, density=0.5, exclude=("*",))


# n:m


@pytest.mark.parametrize(
    ("pattern", "binarizer"), [("2:4", "topk"), ("2:4", "magnitude"), ("1:8", "topk"), ("3:4", "topk")]
)
def test_pattern(pattern, binarizer):
    n, m = map(int, pattern.split(":"))
    model = small_units()
    training = Training(model, "unstructured", 10, pattern=pattern, binarizer=binarizer).run()
    masked = logits(model)
    masks = training.pruning.finish()
    assert torch.equal(logits(model), masked)
    assert masks.granularities() == {"n:m"}
    for name in structure_of(model).linears():
        groups = (model.get_submodule(name).weight != 0).unflatten(1, (-1, m))
        assert (groups.sum(dim=2) == n).all()


def test_pattern_is_annealed_from_dense():
    """On the way, the n best of every m stay, and the best of the others up to the scheduled density."""
    model = small_units()
    training = Training(model, "unstructured", 20, pattern="2:4", warmup=0.1, cooldown=0.4)
    for step in range(21):
        progress = reference.cubic(step, 20, 2, 8)
        for group in groups_of(model):
            kept = group.mask > 0
            assert int(kept.sum()) == round((1 - 0.5 * progress) * kept.numel())
            if step <= 12:  # later the scores are frozen, and so is the mask
                best = torch.from_numpy(reference.n_of_m(group.scores.detach().numpy(), 2, 4)) > 0
                assert kept[best].all()
                others = group.scores.detach()[~best]
                assert (others[kept[~best]].min() if kept[~best].any() else torch.inf) >= (
                    others[~kept[~best]].max() if (~kept[~best]).any() else -torch.inf
                )
        if step < 20:
            training.run(1)


def test_pattern_with_parts_left_alone_is_no_question_of_density():
    model = small_units()
    exclude = ("layer.0.*", "layer.1.ffn")
    masks = Training(model, "unstructured", 6, pattern="1:4", exclude=exclude).run().pruning.finish()
    assert masks.density() == 0.25
    assert masked_share(model, masks) == 0.75 + 0.25 * 0.25


# Penalty weight instead of a density


@pytest.mark.parametrize(
    ("strategy", "binarizer", "cost"),
    [("block", "threshold", "l1"), ("hybrid", "sigmoid_threshold", "l1"), ("structured", "hard_concrete", "l0")],
)
def test_penalty_is_the_scheduled_weight_times_the_mean_costs(strategy, binarizer, cost):
    options = {"penalty_weight": 7.0, "binarizer": binarizer, "attention_weight": 0.5, "ffn_weight": 3.0}
    model = small_units()
    training = Training(model, strategy, 10, warmup=0.2, cooldown=0.4, **options)
    for step in range(11):
        parts = {"attention": [], "ffn": []}
        for group in groups_of(model):
            scores = group.scores.detach().double().numpy()
            parts[group.plan.part].append(getattr(reference, cost)(scores))
        mean = 0.5 * np.mean(parts["attention"]) + 3.0 * np.mean(parts["ffn"])
        wanted = 7.0 * reference.cubic(step, 10, 2, 4) * mean if step < 6 else 0.0
        assert training.pruning.penalty().item() == pytest.approx(wanted, rel=2e-6), step
        if step < 10:
            training.run(1)


@pytest.mark.parametrize(
    ("binarizer", "rule"), [("threshold", "threshold"), ("sigmoid_threshold", "sigmoid_threshold")]
)
@pytest.mark.parametrize("threshold", [0.05, 0.6, 50.0])
def test_threshold_moves_from_zero_to_its_end_and_the_floor_holds(binarizer, rule, threshold):
    options = {"penalty_weight": 1.0, "binarizer": binarizer, "threshold": threshold, "floor": 0.03}
    model = small_units()
    training = Training(model, "block", 10, warmup=0.2, cooldown=0.3, freeze=False, **options)
    for step in range(11):
        cut = np.float32(threshold * reference.cubic(step, 10, 2, 3))
        for group in groups_of(model):
            scores = group.scores.detach().numpy()
            np.testing.assert_array_equal(group.mask, getattr(reference, rule)(scores, cut, 0.03))
        if step < 10:
            training.run(1)
    masks = training.pruning.finish()
    if threshold == 50.0:  # int(0.03 * 16) + 1 blocks of every matrix
        assert masks.density() == 2 * (4 * 64 + 2 * 128) / 16384


@pytest.mark.parametrize(
    ("strategy", "binarizer"),
    [("unstructured", "hard_concrete"), ("block", "threshold"), ("hybrid", "hard_concrete")]
    + [("structured", "threshold"), ("structured", "hard_concrete")],
)
def test_a_heavier_penalty_leaves_less_and_nothing_is_left_of_the_mask(strategy, binarizer):
    densities = []
    for weight in (1e-3, 300.0):
        model = small_units()
        options = {"penalty_weight": weight, "binarizer": binarizer, "threshold": 0.0, "score_learning_rate": 1.0}
        training = Training(model, strategy, 14, **options).run()
        masked = logits(model)
        masks = training.pruning.finish()
        torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-6)
        densities.append(masks.density())
    assert densities[1] < densities[0]


def test_cost_of_one_part_only():
    model = small_units()
    training = Training(model, "block", 10, penalty_weight=5.0, attention_weight=0.0, warmup=0.0).run(3)
    training.pruning.penalty().backward()
    for group in groups_of(model):
        assert bool(group.scores.grad.abs().sum() > 0) is (group.plan.part == "ffn")


def test_pressure_of_one_part_only_and_of_none():
    model = small_units()
    training = Training(model, "block", 10, density=0.5, attention_weight=0.0, binarizer="threshold").run(3)
    training.pruning.penalty().backward()
    for group in groups_of(model):
        assert bool(group.scores.grad.abs().sum() > 0) is (group.plan.part == "ffn")
    none = {"attention_weight": 0.0, "ffn_weight": 0.0, "binarizer": "threshold"}
    training = Training(model := small_units(), "block", 4, density=0.5, **none).run()
    assert 0.5 - ONE_UNIT["block"] < stored_density(model, training.pruning.finish()) <= 0.5


# What is refused


@pytest.mark.parametrize(
    ("strategy", "options", "layer"),
    [
        ("block", {"attention_block": (5, 8)}, "bert.encoder.layer.0.attention.self.query: blocks of 5x8"),
        ("block", {"ffn_block": (8, 48)}, "bert.encoder.layer.0.intermediate.dense: blocks of 8x48"),
        ("block", {"ffn_block": (64, 32)}, "bert.encoder.layer.0.output.dense: blocks of 64x32"),
        ("block", {"attention_block": (3, 8), "joint_attention": True}, "bert.encoder.layer.0.attention.self.query"),
        ("hybrid", {"attention_block": (8, 5)}, "bert.encoder.layer.0.attention.self.query: blocks of 8x5"),
        ("unstructured", {"pattern": "2:5"}, "bert.encoder.layer.0.attention.self.query: 2:5 does not divide"),
    ],
)
def test_blocks_that_do_not_divide(strategy, options, layer):
    model = small_units()
    before = layers(model)
    with pytest.raises(StructureError, match=layer):
        Training(model, strategy, 10, **options)
    assert layers(model) == before


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_that_is_being_pruned_is_refused_and_unharmed(strategy):
    model = small_units()
    training = Training(model, strategy, 10, density=0.5).run(3)
    before, keys = logits(model), set(model.state_dict())
    with pytest.raises(StructureError, match="is a MaskedLinear, only a plain Linear can be masked"):
        Training(model, strategy, 10, density=0.5)
    assert set(model.state_dict()) == keys
    assert torch.equal(logits(model), before)
    training.run().pruning.finish()


def test_another_kind_of_linear_is_refused_and_nothing_is_masked():
    class Special(nn.Linear):
        pass

    model = small_units()
    last = list(structure_of(model).linears())[-1]
    model.get_submodule(last).__class__ = Special
    before = layers(model)
    with pytest.raises(StructureError, match=f"{last} is a Special"):
        Training(model, "block", 10, density=0.5)
    assert layers(model) == before


@pytest.mark.parametrize(
    ("strategy", "options"), [*((name, {}) for name in STRATEGIES), ("block", {"joint_attention": True})]
)
def test_a_model_with_stubs_is_pruned_again(strategy, options):
    """The first layer has no attention left, the second no neuron."""
    masks = unit_masks(small_units(), lambda unit: [] if unit.key in ("layer.0.attention", "layer.1.ffn") else None)
    model = compact(small_units(), masks).model
    masks = Training(model, strategy, 10, density=0.5, **options).run().pruning.finish()
    assert {name.split(".")[3] + name.split(".")[4] for name in masks} == {"1attention", "0intermediate", "0output"}
    assert 0.5 - 2 * ONE_UNIT[strategy] < stored_density(model, masks) <= 0.5


def test_joint_mask_of_grouped_queries():
    from prune_core.granularity import Block
    from prune_core.kit.layouts import joint

    unit = Attention("layer.0.attention", "core", "q", "k", "v", "o", heads=4, key_value_heads=2, head_size=8)
    with pytest.raises(StructureError, match=r"layer\.0\.attention has 4 query heads and 2 key heads"):
        joint(unit, Block(2, 2))


@pytest.mark.parametrize(
    ("config", "fields", "said"),
    [
        (MaskingConfig, {"density": 0.5, "penalty_weight": 1.0}, "a density or a penalty_weight, not both"),
        (MaskingConfig, {"penalty_weight": 1.0, "binarizer": "topk"}, "topk keeps a density"),
        (MaskingConfig, {"penalty_weight": 1.0, "binarizer": "magnitude"}, "magnitude keeps a density"),
        (MaskingConfig, {"warmup": 0.5, "cooldown": 0.5}, "leave no step for the masks to move"),
        (MaskingConfig, {"density": 0.0}, "greater than 0"),
        (MaskingConfig, {"density": 1.01}, "less than or equal to 1"),
        (MaskingConfig, {"densty": 0.5}, "Extra inputs are not permitted"),
        (BlockConfig, {"attention_block": (0, 8)}, "greater than or equal to 1"),
        (UnstructuredConfig, {"pattern": "4:2"}, "removes nothing"),
        (UnstructuredConfig, {"pattern": "2:4", "density": 0.3}, "fixes the density at 0.5"),
        (UnstructuredConfig, {"pattern": "2:4", "penalty_weight": 1.0}, "topk keeps a density"),
        (UnstructuredConfig, {"pattern": "2:4", "binarizer": "threshold"}, "goes with the binarizers topk"),
        (UnstructuredConfig, {"pattern": "two of four"}, "should match pattern"),
    ],
)
def test_configuration_that_contradicts_itself(config, fields, said):
    with pytest.raises(ValidationError, match=said):
        config(**fields)


def test_progress():
    assert [Progress(step, 4).fraction for step in (0, 1, 4, 5)] == [0, 0.25, 1, 1]
    assert Progress(0, 0).fraction == 1.0


def test_same_seed_same_masks_and_another_seed_others():
    def masks(seed):
        return Training(small_units(), "structured", 12, density=0.5, seed=seed).run().pruning.finish()

    assert same(masks(0), masks(0))
    assert not same(masks(0), masks(1))


def test_the_model_needs_no_label_and_no_head():
    """Whatever loss reaches the scores will do: here the norm of the hidden states of a bare encoder."""
    model = tiny_model("bert").bert
    training = Training(model, "structured", 4, density=0.5)
    training.loss = lambda: model(torch.zeros(1, 3, dtype=torch.long)).last_hidden_state.square().mean()
    assert stored_density(model, training.run().pruning.finish()) <= 0.5


class OnlyQueries(MaskingStrategy):
    """A layout that masks nothing but query: no head goes by it."""

    def layout(self, structure):
        return [
            GroupPlan(f"{unit.key}.query", "attention", (Target(unit.query, Element()),))
            for unit in structure.attention
        ]


class OnlyQueriesSparse(OnlyQueries):
    sparse = True


def test_a_layout_that_decides_on_no_unit_is_refused_or_counts_by_itself():
    with pytest.raises(StructureError, match="no matrix that decides on a head or a neuron"):
        Pruning(small_units(), OnlyQueries(MaskingConfig(density=0.9)), total_steps=5)
    with pytest.raises(RecipeError, match=r"^density, sed: fields of a strategy .* set them in its configuration$"):
        Pruning(small_units(), OnlyQueries(MaskingConfig()), total_steps=5, density=0.9, sed=1)
    model = small_units()
    pruning = Pruning(model, OnlyQueriesSparse(MaskingConfig(density=0.9)), total_steps=1)
    pruning.step()
    assert stored_density(model, pruning.finish()) == pytest.approx(0.9, abs=1e-3)
