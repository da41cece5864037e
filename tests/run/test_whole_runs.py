"""Whole runs through the command line, of the kinds that load in other ways: loaded again by a fresh process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import ErnieConfig, ErnieForSequenceClassification, LukeConfig, LukeForSequenceClassification

from prune_cli.app import main
from tests.compaction.test_discovery import LUKE
from tests.run.conftest import LABELS, SIZES, WORDS, tokenizer

KINDS = {
    "uniform": ("bert", ["--uniform"]),
    "portable": ("bert", ["--portable"]),
    "shorter": ("bert", ["--drop-layers", "layer.0", "--uniform"]),
    "discovered": ("ernie", []),
    "described": ("luke", []),
}
"""The model that is pruned, and the flags."""
WITHOUT_US = ("uniform", "portable", "shorter")

LOAD = """
import json, sys
folder, kinds, ours = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
if ours:
    import prune_core
else:
    sys.modules["prune_core"] = None  # an import of it would fail
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
found = {}
for kind in kinds:
    tokens = AutoTokenizer.from_pretrained(f"{folder}/{kind}/model")
    inputs = tokens(["a very long film", "good"], padding=True, return_tensors="pt", return_token_type_ids=False)
    logits = []
    for name in ("masked", "model"):
        path = f"{folder}/{kind}/{name}"
        model = AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=not ours)
        with torch.no_grad():
            logits.append(model.eval()(**inputs).logits)
    size = sum(parameter.numel() for parameter in model.parameters())
    found[kind] = [float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max()), size]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def models(inputs, tmp_path_factory):
    folder, names = tmp_path_factory.mktemp("models"), {"id2label": dict(enumerate(LABELS))}
    fields = SIZES | names | {"vocab_size": len(WORDS), "max_position_embeddings": 24, "pad_token_id": 0}
    found = {"bert": inputs["bert"]["model"]}
    for kind, config, model_class in (
        ("ernie", ErnieConfig(**fields), ErnieForSequenceClassification),
        ("luke", LukeConfig(**fields, entity_vocab_size=4, entity_emb_size=8), LukeForSequenceClassification),
    ):
        torch.manual_seed(0)
        found[kind] = str(folder / kind)
        model_class(config).save_pretrained(found[kind])
        tokenizer().save_pretrained(found[kind])
    return found


@pytest.fixture(scope="module")
def runs(models, inputs, tmp_path_factory):
    """A folder with a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "luke.yaml"
    recipe.write_text(json.dumps({"architecture": {"stacks": [LUKE]}}))
    task = inputs["bert"]["task"]
    common = [
        *("--strategy", "structured", "--density", "0.5", "--max-steps", "2", "--batch-size", "8", "--device", "cpu"),
        *("--task", task["name"], "--train-file", task["train_file"], "--validation-file", task["validation_file"]),
        *(part for field in ("rounds=3", "length=8", "batch_size=1") for part in ("--set", f"measure.{field}")),
    ]
    for kind, (family, flags) in KINDS.items():
        named = [str(recipe)] if kind == "described" else []
        model = ["--model", models[family], "--output", str(folder / kind)]
        assert main(["run", *named, *common, *model, *flags]) == 0, kind
    return folder


@pytest.mark.parametrize("ours", [False, True], ids=["without prune_core", "with prune_core"])
def test_a_fresh_process_computes_what_the_masked_model_does(ours, runs):
    kinds = [kind for kind in KINDS if (kind in WITHOUT_US) != ours]
    command = [sys.executable, "-c", LOAD, str(runs), json.dumps(kinds), json.dumps(ours)]
    cache = {"HF_MODULES_CACHE": str(runs.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == set(kinds)
    for kind, (difference, scale, size) in found.items():
        assert difference <= 1e-5 * max(1.0, scale), kind
        manifest = json.loads((runs / kind / "manifest.json").read_text())
        assert size == manifest["speedup"]["model"]["parameters"] < manifest["speedup"]["baseline"]["parameters"]
        assert manifest["verification"]["passed"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_is_verified_again(kind, runs):
    assert main(["verify", str(runs / kind)]) == 0
    config = json.loads((runs / kind / "model" / "config.json").read_text())
    assert ("quantization_config" in config) == (kind in ("portable", "discovered", "described"))
    assert ("auto_map" in config) == (kind == "portable")
    manifest = json.loads((runs / kind / "manifest.json").read_text())
    assert (manifest["needs_prune_core"], manifest["portable"]) == (kind not in WITHOUT_US, kind == "portable")
    assert ("prune_layers" in config) == (kind == "shorter")
