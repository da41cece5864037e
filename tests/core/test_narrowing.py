"""Closed neurons are not computed where counting them keeps nobody waiting; what is learned is the same."""

import pytest
import torch

from prune_core.folders.loading import structure_of
from prune_core.kit import masked
from prune_core.testing.tiny import tiny_model
from tests.core.loops import Training, batch, groups_of

FAMILIES = ("bert", "gpt2", "llama", "phi3", "t5", "modernbert")
"""Linears, Conv1Ds, gates, gate and up in one matrix, encoder and decoder, no biases."""
CASES = [
    ("hybrid", {}),
    ("structured", {}),
    ("structured", {"binarizer": "topk"}),
    ("structured", {"binarizer": "magnitude"}),
    ("structured", {"mask_biases": False, "binarizer": "topk"}),
]
CLOSE = {"rtol": 1e-5, "atol": 1e-8}
"""The scores are float32."""


def training(family: str, strategy: str, **options: object) -> Training:
    return Training(tiny_model(family).double(), strategy, 12, density=0.3, **options)


def computed(one: Training) -> dict[str, int]:
    """How many neurons are worth computing: the open ones, or all of them where hardly one is closed."""
    return {name: count if count <= masked.WORTH * 64 else 64 for name, count in neurons(one).items()}


def neurons(one: Training) -> dict[str, int]:
    """How many are open in each feed-forward unit."""
    groups = [group for group in groups_of(one.model) if group.plan.part == "ffn"]
    return {group.plan.name: int((group.current() > 0).sum()) for group in groups}


def widths(one: Training, family: str) -> dict[str, int]:
    """Features that each feed-forward unit hands on in a forward pass."""
    seen: dict[str, int] = {}
    units = structure_of(tiny_model(family)).ffn
    hooks = [
        one.model.get_submodule(unit.down).register_forward_pre_hook(
            lambda layer, given, key=unit.key: seen.update({f"{key}.neurons": given[0].shape[-1]})
        )
        for unit in units
    ]
    one.model(**batch(one.model, 0))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("strategy", "options"), CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_what_all_neurons_learn(family: str, strategy: str, options: dict, monkeypatch):
    ours = training(family, strategy, **options).run(9)
    assert min(computed(ours).values()) < 64, "else this shows nothing"
    with monkeypatch.context() as whole:
        whole.setattr(masked, "counts_at_once", lambda weight: False)
        other = training(family, strategy, **options).run(9)
    assert neurons(ours) == neurons(other)
    left, right = ours.model.state_dict(), other.model.state_dict()
    for name, value in right.items():
        torch.testing.assert_close(left[name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("strategy", "options"), CASES[:4], ids=str)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_no_more_is_computed_than_what_is_open(family: str, strategy: str, options: dict, monkeypatch):
    one = training(family, strategy, **options).run(9)
    for mode in (True, False):
        one.model.train(mode)
        assert widths(one, family) == computed(one)
    assert min(computed(one).values()) < 64
    one.run()
    assert widths(one, family) == computed(one), "after the masks are final too"
    monkeypatch.setattr(masked, "counts_at_once", lambda weight: False)
    assert set(widths(one, family).values()) == {64}, "what a GPU does"


def test_neurons_that_keep_their_biases_are_computed():
    """Closed, they still move their scores."""
    one = training("bert", "structured", binarizer="topk", mask_biases=False).run(9)
    assert set(widths(one, "bert").values()) == {64} != set(neurons(one).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_units_of_which_nothing_is_open(family: str, monkeypatch):
    one = training(family, "hybrid").run(2)
    for group in groups_of(one.model):
        if group.plan.part == "ffn":
            group.mask.zero_()
    outputs = []
    for counts in (True, False):
        monkeypatch.setattr(masked, "counts_at_once", lambda weight, counts=counts: counts)
        one.model.zero_grad()
        loss = one.model.eval()(**batch(one.model, 3)).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}
        outputs.append((loss.detach(), gradients))
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)


def test_a_compiled_model_is_not_compiled_anew_when_neurons_close():
    one = training("bert", "hybrid").run(9)
    compiled, counters = torch.compile(one.model, backend="eager"), torch._dynamo.utils.counters["stats"]
    graphs = set()
    for closed in (4, 32):
        for group in groups_of(one.model):
            group.mask[:closed] = 0
        expected = one.model.eval()(**batch(one.model, 0)).logits
        torch.testing.assert_close(compiled(**batch(one.model, 0)).logits, expected, rtol=1e-6, atol=1e-9)
        graphs.add(counters["unique_graphs"])
    assert len(graphs) == 1
