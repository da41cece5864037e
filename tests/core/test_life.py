"""The life of a training: movement reaches the scores, masks freeze, a copy and a checkpoint are worth the original."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prune_core.errors import RecipeError, TrainingError
from prune_core.granularity import Head, Neuron
from prune_core.kit import masked
from prune_core.linears import linear
from prune_core.pruning import Pruning
from prune_core.testing.tiny import tiny_model
from tests.core.loops import STRATEGIES, Training, batch, groups_of, logits, same, small_units
from tests.parity import reference

LAYER = "bert.encoder.layer.0"
ATTENTION = [f"{LAYER}.attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]

# Movement


def gradients(training, names):
    """dL/dW' of these linears in one step of the loss alone, by hooks on what goes in and what comes back."""
    seen = {name: {} for name in names}
    hooks = []
    for name in names:
        layer = training.model.get_submodule(name)
        hooks.append(layer.register_forward_hook(lambda _, ins, __, to=seen[name]: to.update(x=ins[0].detach())))
        hooks.append(layer.register_full_backward_hook(lambda _, __, outs, to=seen[name]: to.update(dy=outs[0])))
    training.model.train()
    training.model(**batch(training.model, 0)).loss.backward()
    for hook in hooks:
        hook.remove()
    flat = {name: (both["x"].flatten(0, -2).numpy(), both["dy"].flatten(0, -2).numpy()) for name, both in seen.items()}
    return {name: reference.gradient_of_masked_weight(x, dy) for name, (x, dy) in flat.items()}


def moved(model, dense, name, kind):
    return reference.sum_over_scores(dense[name] * linear(model, name).weight.detach().numpy(), kind)


def group(model, name):
    return next(one for one in groups_of(model) if one.plan.name == name)


def masked_training(strategy, **options):
    """A training of a float64 model in which about half of every group is masked, whatever its scores."""
    training = Training(tiny_model("bert").double(), strategy, 10, density=0.5, **options)
    torch.manual_seed(0)
    for one in groups_of(training.model):
        one.mask.copy_(torch.rand_like(one.mask) < 0.5)
    return training


CLOSE = {"rtol": 3e-7, "atol": 1e-10}
"""The scores, and so their gradients, are float32."""


@pytest.mark.parametrize(
    ("strategy", "kind"), [("unstructured", "element"), ("block", "block:8x8"), ("hybrid", "block:4x8")]
)
def test_scores_of_one_layer_move_by_the_formula(strategy, kind):
    training = masked_training(strategy, binarizer="threshold")
    dense = gradients(training, ATTENTION)
    for name, role in zip(ATTENTION, ("query", "key", "value", "attention_output"), strict=True):
        ours = group(training.model, f"layer.0.attention.{role}").scores.grad
        np.testing.assert_allclose(ours, moved(training.model, dense, name, kind), **CLOSE)


def test_paired_neurons_move_by_both_their_layers(monkeypatch):
    """Where all of them are computed; test_narrowing.py compares that with the open ones alone."""
    monkeypatch.setattr(masked, "counts_at_once", lambda weight: False)
    training = masked_training("hybrid")
    up, down = f"{LAYER}.intermediate.dense", f"{LAYER}.output.dense"
    dense = gradients(training, [up, down])
    wanted = moved(training.model, dense, up, "neuron:rows:1") + moved(training.model, dense, down, "neuron:columns:1")
    np.testing.assert_allclose(group(training.model, "layer.0.ffn.neurons").scores.grad, wanted, **CLOSE)


def test_heads_move_by_all_their_matrices():
    training = masked_training("structured", binarizer="threshold")
    dense = gradients(training, ATTENTION)
    kinds = ["head:rows:8"] * 3 + ["head:columns:8"]
    wanted = sum(moved(training.model, dense, *pair) for pair in zip(ATTENTION, kinds, strict=True))
    np.testing.assert_allclose(group(training.model, "layer.0.attention.heads").scores.grad, wanted, **CLOSE)


def test_a_joint_mask_moves_by_the_transposed_output_too():
    training = masked_training("block", joint_attention=True, attention_block=(4, 8))
    dense = gradients(training, ATTENTION)
    inputs = sum(moved(training.model, dense, name, "block:4x8") for name in ATTENTION[:3])
    wanted = inputs + moved(training.model, dense, ATTENTION[3], "block:8x4").T
    np.testing.assert_allclose(group(training.model, "layer.0.attention.joint").scores.grad, wanted, **CLOSE)


def test_masked_weights_do_not_move_and_the_others_by_the_dense_gradient():
    training = masked_training("block", binarizer="threshold")
    dense = gradients(training, ATTENTION[:1])[ATTENTION[0]]
    full = reference.expand(group(training.model, "layer.0.attention.query").mask.numpy(), "block:8x8", dense.shape)
    ours = linear(training.model, ATTENTION[0]).weight.grad.numpy()
    np.testing.assert_allclose(ours, dense * full, rtol=1e-10, atol=1e-14)


# Hard concrete


def test_gates_multiply_the_columns_of_the_consumers_and_nothing_else():
    training = Training(small_units(), "structured", 10, density=0.5)
    layers = {name: one for name, one in training.model.named_modules() if type(one).__name__ == "MaskedLinear"}
    assert {name for name, one in layers.items() if one._masking.scales} == {
        f"bert.encoder.layer.{n}.{name}" for n in (0, 1) for name in ("attention.output.dense", "output.dense")
    }
    for one in groups_of(training.model):
        kinds = {type(target.granularity) for target in one.plan.scaled()}
        assert kinds <= {Head, Neuron}
        assert [target.granularity.axis for target in one.plan.scaled()] == ["columns"]


def test_gates_are_drawn_once_a_step_and_are_means_in_evaluation():
    training = Training(small_units(), "structured", 20, density=0.5).run(3)
    model = training.model.train()
    one = group(model, "layer.0.ffn.neurons")
    with torch.no_grad():
        one.scores.copy_(torch.linspace(-4, 4, one.scores.numel()))
    drawn = one.current()
    assert torch.equal(drawn, one.current())
    uniform = reference.sigmoid(one.noise.numpy())
    scores = one.scores.detach().double().numpy()
    np.testing.assert_allclose(drawn.detach(), reference.hard_concrete(scores, uniform), atol=2e-6)
    model.eval()
    np.testing.assert_allclose(one.current().detach(), reference.hard_concrete_in_evaluation(scores), atol=3e-7)
    noise = one.noise.clone()
    training.run(1)
    assert not torch.equal(noise, one.noise)
    assert not torch.equal(one.noise[:8], group(model, "layer.0.attention.heads").noise)


def test_a_binary_mask_has_one_number_a_score_beside_it():
    for one in groups_of(Training(small_units(), "unstructured", 20).model):
        assert sum(buffer.numel() for buffer in one.buffers()) == one.scores.numel()


def test_gates_are_the_same_when_a_layer_is_computed_again():
    def gradient(again: bool):
        training = Training(small_units(), "structured", 20, density=0.5).run(2)
        training.model.train()
        if again:
            training.model.activation_checkpointing_enable({"use_reentrant": False})
        training.loss().backward()
        return [parameter.grad for parameter in training.model.parameters() if parameter.grad is not None]

    for plain, checkpointed in zip(gradient(again=False), gradient(again=True), strict=True):
        assert torch.equal(plain, checkpointed)


def test_kept_gates_are_folded_into_the_weights():
    """A gate that is half open when masks freeze is half of the consumer's column afterwards."""
    training = Training(small_units(), "structured", 10, density=0.5, score_learning_rate=1e-9)
    with torch.no_grad():
        for one in groups_of(training.model):
            one.scores.copy_(torch.linspace(-0.5, 0.5, one.scores.numel()))
    training.run()
    one = group(training.model, "layer.0.ffn.neurons")
    before = linear(training.model, f"{LAYER}.output.dense").weight.detach().clone().numpy()
    soft = reference.hard_concrete_in_evaluation(one.scores.detach().double().numpy())
    kept = one.mask > 0
    assert 0 < int(kept.sum()) < kept.numel()
    training.pruning.finish()
    after = linear(training.model, f"{LAYER}.output.dense").weight.detach()
    np.testing.assert_allclose(after, before * (soft * kept.numpy()), rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("strategy", "options"), [*((name, {}) for name in STRATEGIES), ("hybrid", {"joint_attention": True})]
)
def test_half_open_gates_are_folded_wherever_they_multiply(strategy, options):
    training = Training(
        small_units(), strategy, 10, density=0.5, binarizer="hard_concrete", score_learning_rate=1e-9, **options
    )
    with torch.no_grad():
        for one in groups_of(training.model):
            one.scores.copy_(torch.linspace(-0.5, 0.5, one.scores.numel()).view_as(one.scores))
    masked = logits(training.run().model)
    kept = torch.cat([one.mask[one.mask > 0] for one in groups_of(training.model)])
    assert kept.max() < 0.8
    training.pruning.finish()
    torch.testing.assert_close(logits(training.model), masked, rtol=0, atol=2e-6)


# Freeze


@pytest.mark.parametrize(
    ("strategy", "binarizer"),
    [("unstructured", "topk"), ("block", "hard_concrete"), ("hybrid", "magnitude"), ("structured", "hard_concrete")],
)
def test_masks_freeze_in_the_cooldown_while_weights_go_on(strategy, binarizer):
    training = Training(small_units(), strategy, 12, density=0.5, binarizer=binarizer, cooldown=0.5)
    densities = []
    for _ in range(6):
        densities.append(training.pruning.masks().density())
        training.run(1)
    model = training.model
    frozen = [one.mask.clone() for one in groups_of(model)]
    scores = [one.scores.detach().clone() for one in groups_of(model)]
    weight = linear(model, f"{LAYER}.output.dense").weight.detach().clone()
    if binarizer != "hard_concrete":  # whose masks() is the final decision at any time
        assert max(densities) > training.pruning.masks().density()
    for _ in range(6):
        penalty = training.pruning.penalty()
        assert penalty.item() == 0
        assert not penalty.requires_grad
        training.run(1)
        for one, mask, score in zip(groups_of(model), frozen, scores, strict=True):
            assert torch.equal(one.mask, mask)
            assert torch.equal(one.scores, score)
    assert not torch.equal(linear(model, f"{LAYER}.output.dense").weight, weight)


def test_masks_move_to_the_end_without_freeze():
    training = Training(small_units(), "unstructured", 12, density=0.5, cooldown=0.5, freeze=False).run(7)
    before = training.pruning.masks()
    after = training.run(4).pruning.masks()
    assert not same(before, after)
    masked = logits(training.run().model)
    training.pruning.finish()
    assert torch.equal(logits(training.model), masked)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 23])
@pytest.mark.parametrize("cooldown", [0.0, 0.1, 0.3, 0.7])
def test_however_short_it_lands(total, cooldown):
    training = Training(small_units(), "unstructured", total, density=0.3, cooldown=cooldown)
    torch.manual_seed(0)
    order = torch.randperm(16384).float()  # no two scores are equal
    parts = order.split([one.scores.numel() for one in groups_of(training.model)])
    with torch.no_grad():
        for one, scores in zip(groups_of(training.model), parts, strict=True):
            one.scores.copy_(scores.view_as(one.scores))
    for _ in range(total):
        training.pruning.step()
    assert training.pruning.masks().density() == int(0.3 * 16384) / 16384


# Copies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deep_copy_trains_apart(strategy):
    training = Training(small_units(), strategy, 12, density=0.5).run(4)
    twin = copy.deepcopy(training.model)
    before = logits(training.model)
    assert torch.equal(logits(twin), before)
    twin.train()
    twin(**batch(twin, 0)).loss.backward()
    assert not [name for name, parameter in training.model.named_parameters() if parameter.grad is not None]
    for one, other in zip(groups_of(twin), groups_of(training.model), strict=True):
        assert one.scores.grad.abs().sum() > 0, one.plan.name
        one.mask.zero_()
        if one.soft:
            one.noise.fill_(-50.0)
        assert not torch.equal(one.mask, other.mask)
    assert torch.equal(logits(training.model), before)
    training.run().pruning.finish()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_loads_as_the_plain_model(strategy, tmp_path):
    model = small_units()
    plain = set(model.state_dict())
    training = Training(model, strategy, 12, density=0.5).run(7)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert all(key.startswith("pruning.") for key in info["unexpected_keys"])
    assert set(loaded.state_dict()) == plain
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, training.model.state_dict()[name]), name


# Resume


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("unstructured", {}),
        ("unstructured", {"pattern": "2:4"}),
        ("unstructured", {"penalty_weight": 1.0, "binarizer": "sigmoid_threshold", "threshold": 0.501}),
        ("block", {"density": 0.5}),
        ("block", {"density": 0.5, "binarizer": "hard_concrete"}),
        ("hybrid", {"density": 0.5}),
        ("hybrid", {"density": 0.5, "binarizer": "magnitude", "freeze": False}),
        ("structured", {"density": 0.5}),
        ("structured", {"penalty_weight": 1.0}),
    ],
)
def test_a_resumed_training_ends_bit_for_bit_as_one_that_was_never_stopped(strategy, options):
    whole = Training(small_units(), strategy, 10, seed=5, **options)
    states = [whole.run(steps).state() for steps in (4, 2, 2)]  # while masks move, at the freeze, in the cool-down
    masks = whole.run().pruning.finish()
    for state in states:
        other = Training(tiny_model("bert", heads=8, seed=1), strategy, 10, seed=5, **options).resume(state)
        torch.manual_seed(state["done"])  # nothing may hang on torch's own generator
        assert same(masks, other.run().pruning.finish()), state["done"]
        for name, parameter in whole.model.named_parameters():
            assert torch.equal(parameter, other.model.get_parameter(name)), (state["done"], name)


def test_a_resumed_penalty_is_the_same():
    whole = Training(small_units(), "structured", 20, density=0.5).run(5)
    resumed = Training(small_units(), "structured", 20, density=0.5).resume(whole.state())
    assert whole.pruning.penalty().item() != 0
    assert torch.equal(whole.pruning.penalty(), resumed.pruning.penalty())
    whole.model.train()
    resumed.model.train()
    assert torch.equal(whole.loss(), resumed.loss())


# Parameter groups


@pytest.mark.parametrize("binarizer", ["threshold", "topk", "magnitude", "hard_concrete"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameter_groups(strategy, binarizer):
    """All trainable parameters once; scores at their rate without decay, no decay on biases and norms, ascent."""
    rates = {"score_learning_rate": 0.7, "pressure_learning_rate": 0.3}
    model = small_units()
    model.bert.embeddings.requires_grad_(False)
    training = Training(model, strategy, 10, density=0.5, binarizer=binarizer, **rates)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for options in training.pruning.parameter_groups(lr=0.1, weight_decay=0.2):
        for parameter in options["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = (options["lr"], options["weight_decay"], options.get("maximize", False))
    assert set(found) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for key, settings in found.items():
        if names[key].endswith("multipliers"):
            assert settings == (0.3, 0.0, True)
        elif names[key].startswith("pruning."):
            assert settings == (0.7, 0.0, False)
        else:
            decay = 0.0 if names[key].endswith("bias") or "LayerNorm" in names[key] else 0.2
            assert settings == (0.1, decay, False), names[key]
    learned = [name for name in names.values() if name.startswith("pruning.groups")]
    assert learned
    assert [name for name in learned if model.get_parameter(name).requires_grad] == (
        [] if binarizer == "magnitude" else learned
    )


# The interface


class TestPruning:
    def test_a_wrong_field_is_one_line(self):
        with pytest.raises(RecipeError, match=r"structured: strategy\.densty: unknown field; did you mean 'density'"):
            Pruning(small_units(), "structured", total_steps=3, densty=0.2)

    @pytest.mark.parametrize("total", [0, -1, "3", 2.5, True, None])
    def test_a_wrong_number_of_steps(self, total):
        with pytest.raises(RecipeError, match=r"total_steps: the number of optimizer steps, 1 or more, was expected"):
            Pruning(small_units(), "structured", total_steps=total)

    @pytest.mark.parametrize("after", ["step", "penalty", "masks", "finish"])
    def test_after_its_end_it_says_so(self, after):
        pruning = Pruning(small_units(), "structured", total_steps=1)
        pruning.step()
        pruning.finish()
        with pytest.raises(TrainingError, match="has finished and the model is plain again"):
            getattr(pruning, after)()

    def test_an_early_end_is_said(self, caplog):
        pruning = Pruning(small_units(), "structured", total_steps=10)
        for _ in range(5):
            pruning.step()
        pruning.finish()
        assert "finish() after 5 of 10 steps" in caplog.text

    def test_an_end_at_the_last_step_is_none_too_early(self, caplog):
        pruning = Pruning(small_units(), "structured", total_steps=2)
        pruning.resume(1)
        pruning.step()
        pruning.finish()
        assert caplog.text == ""
