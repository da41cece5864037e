"""GELU that becomes ReLU while a model is fine-pruned: in the end an ordinary model, whose configuration says so."""

import json
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.activations import GELUActivation

from prune_core.errors import StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.rewriting.no_norm import NoNorm
from prune_core.rewriting.simplify import Blended, BlendedNorm, NoNorms, Relu, Simplified
from prune_core.runs.preparation import prepare
from prune_core.runs.run import run
from prune_core.runs.verifying import verify_run
from prune_core.strategy import Context, Progress
from prune_core.testing.contract import StrategyContract
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured

RELU = {"relu": True, "share": 0.5}


class TestContract(StrategyContract):
    """A strategy stays one."""

    families = ("bert",)
    density = 0.5
    test_finish_leaves_a_plain_model = None  # another activation than before is what it is for

    def strategy(self):
        return Simplified(Structured(StructuredConfig(density=0.5)), 0.5, [Relu()])


class TestNoNormContract(TestContract):
    """The same with affine layers."""

    def strategy(self):
        return Simplified(Structured(StructuredConfig(density=0.5)), 0.5, [NoNorms()])


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@torch.no_grad()
def test_the_blend_moves_from_one_function_to_the_other(family):
    model = tiny_model(family)
    batch = tiny_inputs(model)
    before = model(**batch).logits
    strategy = Simplified(Structured(StructuredConfig(density=1.0, binarizer="topk")), 0.5, [Relu()])
    strategy.prepare(Context(model, structure_of(model), 100))
    assert strategy.target == 1.0, "report and progress bar are told of the density"
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


OWN = {
    "electra": "classifier.activation",
    "modernbert": "head.act",
    "hubert": "hubert.encoder.pos_conv_embed.activation",
}
"""Activations that the field of the configuration does not name."""


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "whisper", "swin", "phi3", *OWN])
@torch.no_grad()
def test_what_becomes_relu_is_what_the_configuration_makes_relu(family, tmp_path):
    model = tiny_model(family)
    strategy = Simplified(Structured(StructuredConfig(density=0.8)), 0.5, [Relu()])
    strategy.prepare(Context(model, structure_of(model), 2))
    strategy.step(Progress(2, 2))
    strategy.finish()
    assert family not in OWN or not isinstance(model.get_submodule(OWN[family]), nn.ReLU)
    model.save_pretrained(tmp_path)
    expected, found = (one.eval()(**tiny_inputs(model))[0] for one in (model, type(model).from_pretrained(tmp_path)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("family", "field"), [("dinov2-gated", "hidden_act 'gelu'"), ("opt", "function 'relu'")])
def test_a_model_in_which_nothing_would_become_relu(family, field):
    model = tiny_model(family)
    with pytest.raises(
        StructureError, match=rf"simplify\.relu: .*{field} .* names no activation that could become ReLU"
    ):
        Relu().prepare(model, structure_of(model))


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
        "import prune_core.rewriting.simplify as simplify\n"
        "original = simplify.Simplified.step\n"
        "def step(self, progress):\n"
        "    if progress.step == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(self, progress)\n"
        "simplify.Simplified.step = step"
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
    strategy = Simplified(Structured(StructuredConfig(density=0.5)), 0.5, [Relu()])
    with pytest.raises(
        StructureError, match=r"simplify\.relu: the configuration of BertForSequenceClassification names"
    ):
        strategy.prepare(Context(model, structure_of(model), 10))


def own_norms(model):
    """LayerNorms inside the layers: two each."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.LayerNorm) and re.search(r"layers?\.\d", n)]


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@torch.no_grad()
def test_a_norm_becomes_an_affine_layer_of_the_mean_statistics(family):
    model = tiny_model(family)
    batch = tiny_inputs(model)
    before = model(**batch).logits
    strategy = Simplified(Structured(StructuredConfig(density=1.0, binarizer="topk")), 0.5, [NoNorms()])
    strategy.prepare(Context(model, structure_of(model), 100))
    name, norm = own_norms(model)[0]
    assert all(isinstance(module, BlendedNorm) for _, module in own_norms(model))
    assert len(own_norms(model)) == 4
    strategy.step(Progress(0, 100))
    assert torch.equal(model(**batch).logits, before)
    norm.train()
    first, second = torch.randn(2, 5, 32) * 3 + 1, torch.randn(2, 5, 32)
    norm(first), norm(second)
    deviations = [(x.var(-1, correction=0) + norm.eps).sqrt().mean() for x in (first, second)]
    means = [x.mean(-1).mean() for x in (first, second)]
    assert torch.allclose(norm.deviation, deviations[0] + 0.02 * (deviations[1] - deviations[0]), atol=1e-6)
    assert torch.allclose(norm.mean, means[0] + 0.02 * (means[1] - means[0]), atol=1e-6)
    affine = norm.weight * (first - norm.mean) / norm.deviation + norm.bias
    normed = F.layer_norm(first, (32,), norm.weight, norm.bias, norm.eps)
    model.eval()
    for step, amount in ((10, 0.2), (25, 0.5), (50, 1.0), (99, 1.0)):
        strategy.step(Progress(step, 100))
        assert torch.allclose(norm(first), (1 - amount) * normed + amount * affine, atol=1e-5), step
    last = model(**batch).logits
    strategy.finish()
    assert isinstance(model.get_submodule(name), NoNorm)
    assert not own_norms(model)
    assert torch.allclose(model(**batch).logits, last, atol=1e-5)


def test_statistics_are_fixed_once_the_blend_is_complete():
    model = tiny_model("bert")
    strategy = Simplified(Structured(StructuredConfig(density=1.0)), 0.5, [NoNorms()])
    strategy.prepare(Context(model, structure_of(model), 10))
    model.train()
    for step, moves in ((0, True), (3, True), (5, False), (9, False)):
        strategy.step(Progress(step, 10))
        before = [norm.mean.clone() for _, norm in own_norms(model)]
        model(**tiny_inputs(model, seed=step))
        changed = [not torch.equal(norm.mean, old) for (_, norm), old in zip(own_norms(model), before, strict=True)]
        assert all(changed) if moves else not any(changed), step


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_run_leaves_a_model_without_norms_that_reloads(name, recipe, tmp_path):
    both = {"no_norm": True, "relu": True, "share": 0.5}
    manifest = run(recipe(tmp_path / "run", family=name, strategy="hybrid", simplify=both))
    assert manifest["verification"]["passed"]
    assert verify_run(tmp_path / "run").passed
    for folder in ("masked", "model"):
        model = load_saved(str(tmp_path / "run" / folder))
        assert not own_norms(model)
        assert sum(isinstance(module, NoNorm) for module in model.modules()) == 4
        model.save_pretrained(tmp_path / folder)
        again = load_saved(str(tmp_path / folder))
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert model.state_dict().keys() == again.state_dict().keys()


def test_a_folder_without_norms_says_what_to_import(recipe, tmp_path):
    run(recipe(tmp_path / "run", simplify={"no_norm": True}))
    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path / 'run' / 'model')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "import prune_core" in card


def test_a_model_whose_norms_are_others_is_refused():
    model = tiny_model("llama")
    strategy = Simplified(Structured(StructuredConfig(density=0.5)), 0.5, [NoNorms()])
    with pytest.raises(StructureError, match=r"simplify\.no_norm: there is no LayerNorm in the layers of Llama"):
        strategy.prepare(Context(model, structure_of(model), 10))
