"""A run lands on the density that was asked for, however short, and its masked model is the finished one."""

import numpy as np
import pytest
import torch

from prune_core.testing.tiny import tiny_model
from tests.core.loops import (
    BINARIZERS,
    ONE_UNIT,
    STRATEGIES,
    Training,
    groups_of,
    logits,
    many_units,
    masked_share,
    same,
    small_units,
    stored_density,
)
from tests.parity import reference


def check_landing(strategy, model, masks, density):
    """At most the density, and less than one unit below it."""
    assert density - ONE_UNIT[strategy] < stored_density(model, masks) <= density + 1e-9


@pytest.mark.parametrize(
    ("strategy", "family", "density"),
    [("hybrid", "bert", 0.5), ("hybrid", "vit", 0.35), ("hybrid", "bert", 0.2)]
    + [("structured", "vit", 0.5), ("structured", "bert", 0.35), ("structured", "vit", 0.2)],
)
def test_sixty_steps(strategy, family, density):
    """Within 0.02 of what is stored, by the issue; in fact within the one unit that no longer fits."""
    model = many_units(family)
    masks = Training(model, strategy, 60, density=density).run().pruning.finish()
    reached = stored_density(model, masks)
    assert density - 0.02 <= reached <= density, f"{reached:.4f}"


@pytest.mark.parametrize("binarizer", BINARIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_binarizer(strategy, binarizer):
    """It lands, and what was masked in evaluation is what is baked in."""
    model = small_units()
    training = Training(model, strategy, 8, density=0.4, binarizer=binarizer).run()
    masked, announced = logits(model), training.pruning.masks()
    masks = training.pruning.finish()
    assert same(announced, masks)
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-6)
    check_landing(strategy, model, masks, 0.4)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_final_masks_say_what_is_stored(scope):
    """Blocks inside emptied heads and neurons are no longer kept: what is announced is what compaction leaves."""
    model = small_units()
    options = {"density": 0.1, "attention_block": (4, 4), "ffn_block": (1, 1), "scope": scope}
    masks = Training(model, "block", 12, **options).run().pruning.finish()
    assert masked_share(model, masks) == stored_density(model, masks) <= 0.1


@pytest.mark.parametrize("binarizer", BINARIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_score_is_learned(strategy, binarizer):
    """Movement reaches every group of scores while masks are learned, and the loss alone is what moves them."""
    model = tiny_model("bert")
    training = Training(model, strategy, 20, density=0.4, binarizer=binarizer).run(2)
    model.train()
    for _ in range(6):  # the noise of one step may leave all gates of a group fully open
        (training.loss() - training.pruning.penalty()).backward()
        training.pruning.step()
    for group in groups_of(model):
        moved = group.scores.grad is not None and bool(group.scores.grad.abs().sum() > 0)
        assert moved is (binarizer != "magnitude"), group.plan.name


@pytest.mark.parametrize("joint", ["block", "hybrid"])
@pytest.mark.parametrize("binarizer", ["threshold", "hard_concrete"])
def test_joint_masks(joint, binarizer):
    model = small_units()
    options = {"density": 0.5, "binarizer": binarizer, "attention_block": (4, 8), "joint_attention": True}
    training = Training(model, joint, 12, **options).run()
    masked = logits(model)
    masks = training.pruning.finish()
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-6)
    for layer in ("bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention"):
        query, key, value = (masks[f"{layer}.self.{name}.weight"].expand() for name in ("query", "key", "value"))
        output = masks[f"{layer}.output.dense.weight"].expand()
        assert torch.equal(query, key)
        assert torch.equal(query, value)
        assert torch.equal(query, output.T)
    unit = 512 if joint == "hybrid" else 128  # a head, or one block in four matrices
    assert 0.5 - unit / 16384 < stored_density(model, masks) <= 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("done", [0, 1, 7])
def test_finish_before_the_end(strategy, done):
    model = small_units()
    masks = Training(model, strategy, 40, density=0.4).run(done).pruning.finish()
    check_landing(strategy, model, masks, 0.4)
    assert not hasattr(model, "pruning")
    assert not [name for name, module in model.named_modules() if type(module).__name__ == "MaskedLinear"]


def test_slices_of_heads():
    model = many_units("vit")
    training = Training(model, "structured", 20, density=0.35, attention="slices").run()
    masked = logits(model)
    masks = training.pruning.finish()
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-6)
    assert 0.33 <= stored_density(model, masks) <= 0.35


def test_everything_may_stay():
    model = tiny_model("bert")
    masks = Training(model, "structured", 5, density=1.0).run().pruning.finish()
    assert masked_share(model, masks) == 1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16(strategy):
    model = small_units().bfloat16()
    training = Training(model, strategy, 12, density=0.4).run()
    masked = logits(model)
    masks = training.pruning.finish()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(logits(model), masked, rtol=2**-7, atol=2**-7)  # one rounding of a weight
    check_landing(strategy, model, masks, 0.4)


@pytest.mark.parametrize(
    ("strategy", "binarizer"), [(name, "threshold") for name in STRATEGIES] + [("block", "magnitude")]
)
def test_density_follows_the_schedule(strategy, binarizer):
    """At every step what remains is the scheduled density, less at most one unit.

    Sparse masks that still move count what they keep; the final ones what is stored.
    """
    training = Training(small_units(), strategy, 10, density=0.3, binarizer=binarizer, warmup=0.2, cooldown=0.4)
    for step in range(1, 11):
        wanted = reference.scheduled(1.0, 0.3, reference.cubic(step, 10, 2, 4))
        masks = training.run(1).pruning.masks()
        held = (masked_share if masks.sparse and step < 6 else stored_density)(small_units(), masks)
        assert wanted - ONE_UNIT[strategy] < held <= wanted + 1e-9, step


def test_global_masks_are_the_highest_scores_of_the_whole_model():
    model = small_units()
    Training(model, "unstructured", 10, density=0.3).run(6)
    scores = torch.cat([group.scores.detach().flatten() for group in groups_of(model)])
    kept = torch.cat([group.mask.flatten() for group in groups_of(model)])
    np.testing.assert_array_equal(kept, reference.highest(scores.numpy(), int(0.3 * 16384)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("mask_biases", [True, False])
def test_biases_go_with_their_rows_or_stay(strategy, mask_biases):
    """The biases behind whole columns always stay: they are no part of the unit."""
    model = small_units()
    training = Training(model, strategy, 8, density=0.2, mask_biases=mask_biases).run()
    masked = logits(model)
    masks = training.pruning.finish()
    torch.testing.assert_close(logits(model), masked, rtol=0, atol=2e-6)
    biases = [name for name in masks if name.endswith(".bias")]
    assert bool(biases) is mask_biases
    for name in biases:
        rows = masks[name.replace(".bias", ".weight")].expand().any(dim=1)
        assert torch.equal(masks[name].expand(), rows)
        assert (model.get_parameter(name)[~rows] == 0).all()
        assert (model.get_parameter(name)[rows] != 0).all()
    if strategy in ("hybrid", "structured"):
        assert not any(name.endswith("output.dense.bias") and ".attention." not in name for name in biases)


@pytest.mark.parametrize("density", [0.1, 0.18, 0.19, 0.35])
def test_the_target_is_the_density_that_was_asked_for(density):
    """To its last digit, as reports say it: weights in threes leave 0.09999999999999999 of 0.1."""
    assert Training(tiny_model("bert", layers=3), "structured", 8, density=density).pruning.strategy.target == density
