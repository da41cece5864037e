"""A run whose weights are divided among two processes (FSDP2) ends as one that holds them whole."""

import json

import pytest
import torch

from prune_core.errors import RecipeError
from prune_core.pruning import Pruning
from prune_core.recipe import Recipe
from prune_core.runs.run import run
from prune_core.testing.tiny import tiny_model

BOTH_WELL = [(0, ""), (0, "")]
HALVES = {"max_steps": 10, "batch_size": 4, "save_steps": 3, "eval_steps": 4}
WHOLE = {**HALVES, "batch_size": 8}
SHARDED = {**HALVES, "sharded": True}
ACCELERATE = "os.environ.update(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2')\n"
"""What `accelerate launch --use_fsdp --fsdp_version 2` says to its processes."""

WATCH = """
import json
from torch.distributed.tensor import DTensor
from prune_core.training.callbacks import StrategySteps

def share(tensors):
    held = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in tensors)
    return held / sum(one.numel() for one in tensors)

def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
    weights = [weight for name, weight in model.named_parameters() if not name.startswith("pruning.")]
    moments = [optimizer.state[weight]["exp_avg"] for weight in weights]
    found = [share(weights), share([weight.grad for weight in weights]), share(moments)]
    Path(FOLDER, "held-" + os.environ["RANK"]).write_text(json.dumps(found))

StrategySteps.on_optimizer_step = on_optimizer_step
"""


@pytest.fixture(scope="module")
def options(still, forty):
    return {"teacher": "self", "model": still, "task": forty}


@pytest.fixture(scope="module")
def divided(options, recipe, children, tmp_path_factory):
    """The folder of a run of two processes, each of which wrote what it held of the weights."""
    folder = tmp_path_factory.mktemp("divided")
    mine = recipe(folder / "run", strategy="hybrid", training=SHARDED, **options)
    assert children.finish_pair(mine, before=WATCH.replace("FOLDER", repr(str(folder)))) == BOTH_WELL
    return folder / "run"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged(folder):
    return (folder / "metrics.jsonl").read_text().count('"loss"') if (folder / "metrics.jsonl").is_file() else 0


def same_run(one, two, weights):
    """Whether two runs removed the same and learned nearly the same: sums of floats differ in their order."""
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (one, two)]
    for field in ("density", "units"):
        assert manifests[0][field] == manifests[1][field]
    figures = [manifest["metrics"]["pruned"] for manifest in manifests]
    assert figures[0] == pytest.approx(figures[1], abs=1e-9)
    masks = [weights(folder / "masks.safetensors") for folder in (one, two)]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    for figure, tolerance in (("loss", 2e-4), ("eval_accuracy", 1e-9), ("grad_norm", 2e-2)):
        mine, theirs = ([line[figure] for line in lines(folder) if figure in line] for folder in (one, two))
        assert mine, figure
        assert theirs == pytest.approx(mine, abs=tolerance), figure
        assert theirs[0] == pytest.approx(mine[0], abs=1e-5), "before the first step of Adam, which blows rounding up"
    return True


def test_divided_weights_are_trained_as_whole_ones(divided, options, recipe, weights, tmp_path):
    """Movement scores, a divided teacher, a fill; each process held half of weights, gradients and moments."""
    run(recipe(tmp_path / "one", strategy="hybrid", training=WHOLE, **options))
    assert same_run(tmp_path / "one", divided, weights)
    for rank in (0, 1):
        assert json.loads((divided.parent / f"held-{rank}").read_text()) == pytest.approx([0.5] * 3, abs=0.02)


def test_killed_and_resumed_to_the_same_bits(divided, options, recipe, children, same_result, tmp_path):
    mine = recipe(tmp_path / "run", strategy="hybrid", training=SHARDED, **options)
    pair = children.start_pair(mine)
    children.wait(pair[0], lambda: logged(tmp_path / "run") >= 5)
    pair[1].kill()
    assert [children.end(process)[0] for process in pair] == [3, -9]
    assert children.finish_pair(mine, resume=True) == BOTH_WELL
    assert same_result(tmp_path / "run", divided)


def test_accelerate_asks_for_it_and_everything_else_goes_along(options, recipe, children, weights, tmp_path):
    """Gates, several batches a step, recomputed activations, simpler functions: as with whole weights."""
    training = {**HALVES, "max_steps": 6, "batch_size": 2, "gradient_accumulation": 2, "gradient_checkpointing": True}
    simple = {"simplify": {"relu": True, "no_norm": True}, **options, "teacher": "none"}
    for name, before in (("whole", ""), ("divided", ACCELERATE)):
        mine = recipe(tmp_path / name, strategy="structured", training=training, **simple)
        assert children.finish_pair(mine, before=before) == BOTH_WELL
        assert Recipe.load(tmp_path / name / "recipe.yaml").training.sharded == bool(before)
    assert same_run(tmp_path / "whole", tmp_path / "divided", weights)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP: accelerate asks for version 1 of FSDP; start with"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "training.sharded: there is one process"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "FSDP_OFFLOAD_PARAMS: weights stay on the devices",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED: weights are divided by FSDP2 alone"),
    ],
)
def test_what_accelerate_may_not_ask_for(environment, found, recipe, monkeypatch, tmp_path):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError) as caught:
        run(recipe(tmp_path / "run"))
    assert str(caught.value).startswith(found)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("strategy", "fields", "found"),
    [
        ("unstructured", {}, "has a score for every weight"),
        ("structured", {"binarizer": "magnitude"}, "reads the weights' magnitudes at every step"),
    ],
)
def test_strategies_that_need_whole_weights_say_so(strategy, fields, found):
    pruning = Pruning(tiny_model("bert"), strategy, total_steps=4, density=0.5, **fields)
    with pytest.raises(RecipeError, match=f"^training.sharded: .*{found}.*: leave sharded out") as caught:
        pruning.strategy.unsharded()
    assert "\n" not in str(caught.value)
