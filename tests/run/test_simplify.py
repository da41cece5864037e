"""GELU that becomes ReLU while a model is fine-pruned: in the end an ordinary model, whose configuration says so."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.activations import GELUActivation

from prune_core.errors import StructureError
from prune_core.loading import structure_of
from prune_core.preparation import prepare
from prune_core.pretrained import load_saved
from prune_core.run import run
from prune_core.simplify import Blended, WithRelu
from prune_core.strategy import Context, Progress
from prune_core.testing.contract import StrategyContract
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.verify import verify_run
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured

RELU = {"relu": True, "share": 0.5}


class TestContract(StrategyContract):
    """A strategy stays one."""

    families = ("bert",)
    density = 0.5
    test_finish_leaves_a_plain_model = None  # another activation than before is what it is for

    def strategy(self):
        return WithRelu(Structured(StructuredConfig(density=0.5)), 0.5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@torch.no_grad()
def test_the_blend_moves_from_one_function_to_the_other(family):
    model = tiny_model(family)
    batch = tiny_inputs(model)
    before = model(**batch).logits
    strategy = WithRelu(Structured(StructuredConfig(density=1.0, binarizer="topk")), 0.5)
    strategy.prepare(Context(model, structure_of(model), 100))
    values = torch.linspace(-3, 3, 31)
    blends = [module for module in model.modules() if isinstance(module, Blended)]
    assert len(blends) == 2
    for step, amount in ((0, 0.0), (10, 0.2), (25, 0.5), (50, 1.0), (99, 1.0)):
        strategy.step(Progress(step, 100))
        expected = (1 - amount) * F.gelu(values) + amount * F.relu(values)
        assert all(torch.allclose(blend(values), expected, atol=1e-6) for blend in blends), step
        if step == 0:
            assert torch.equal(model(**batch).logits, before)
    last = model(**batch).logits
    strategy.finish()
    assert torch.allclose(model(**batch).logits, last, atol=1e-6)
    assert not any(isinstance(module, (Blended, GELUActivation, nn.GELU)) for module in model.modules())


@pytest.fixture(scope="module")
def simplified(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simplify") / "run"
    return folder, run(recipe(folder, strategy="hybrid", simplify=RELU))


def test_every_folder_says_relu_and_loads_as_such(simplified):
    folder, manifest = simplified
    assert manifest["verification"]["passed"]
    assert verify_run(folder).passed
    for name in ("masked", "model"):
        assert json.loads((folder / name / "config.json").read_text())["hidden_act"] == "relu"
        model = load_saved(str(folder / name))
        assert not any(isinstance(module, (GELUActivation, nn.GELU)) for module in model.modules())
        assert sum(isinstance(module, nn.ReLU) for module in model.modules()) > 0
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "masked")
    batch = tiny_inputs(plain)
    batch["input_ids"] %= plain.config.vocab_size
    assert torch.equal(plain(**batch).logits, load_saved(str(folder / "masked"))(**batch).logits)


def test_a_killed_run_ends_as_one_that_was_not(simplified, recipe, children, same_result, tmp_path):
    expected, _ = simplified
    kill = (
        "import prune_core.simplify as simplify\n"
        "original = simplify.WithRelu.step\n"
        "def step(self, progress):\n"
        "    if progress.step == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(self, progress)\n"
        "simplify.WithRelu.step = step"
    )
    mine = recipe(tmp_path / "run", strategy="hybrid", simplify=RELU)
    code, error = children.finish(mine, before=kill)
    assert code == -9, error
    code, error = children.finish(mine, resume=True)
    assert (code, error) == (0, "")
    assert same_result(tmp_path / "run", expected)


def test_the_dense_model_and_the_teacher_keep_their_function(recipe, tmp_path):
    ready = prepare(recipe(tmp_path / "run", simplify=RELU))
    assert (ready.dense.config.hidden_act, ready.teacher.config.hidden_act) == ("gelu", "gelu")
    assert not any(isinstance(module, Blended) for model in (ready.dense, ready.teacher) for module in model.modules())


def test_a_configuration_that_names_no_activation(recipe):
    model = tiny_model("bert")
    model.config.hidden_act = "of-its-own"
    strategy = WithRelu(Structured(StructuredConfig(density=0.5)), 0.5)
    with pytest.raises(
        StructureError, match=r"simplify\.relu: the configuration of BertForSequenceClassification names"
    ):
        strategy.prepare(Context(model, structure_of(model), 10))
