"""The portable file: a compact folder loads where prune_core is not, and prune_core never runs it."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from prune_core.compaction import compact
from prune_core.errors import ModelError, VerificationError
from prune_core.folders.card import loading_class
from prune_core.folders.portable import MODULE, make_portable
from prune_core.folders.saving import save_compact
from prune_core.folders.shipping import portably
from prune_core.masks import MaskSet
from prune_core.plugins import load_plugins
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

FUSED = ("gpt2", "modernbert", "phi3", "gpt_neox", "deberta")
FAMILIES = ("bert", "llama", "t5", "bart", "vit", "mpnet", "swin", *FUSED)

STRANGER = """
import importlib.abc, sys

class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prune_core":
            raise ImportError("there is no prune_core here")

sys.meta_path.insert(0, Nowhere())
import torch, transformers
from pathlib import Path

for folder in sorted(Path(sys.argv[1]).iterdir()):
    inputs, auto = torch.load(folder.parent.parent / "inputs" / folder.name)
    for name, head in ((auto, "logits"), ("AutoModel", None)):
        load = getattr(transformers, name).from_pretrained
        model, report = load(folder, trust_remote_code=True, output_loading_info=True)
        assert not [key for key in report["missing_keys"] if "pooler" not in key], report
        for parameter in model.eval().parameters():  # of a mapped file: kernels round by how memory is aligned
            parameter.data = parameter.data.clone()
        assert "prune_core" not in sys.modules and type(model).__module__.startswith("transformers_modules")
        if head:
            with torch.no_grad():
                torch.save(model(**inputs)[head], folder.parent.parent / "outputs" / folder.name)
            model.save_pretrained(folder.parent.parent / "again" / folder.name)
            again = getattr(transformers, name).from_pretrained(
                folder.parent.parent / "again" / folder.name, trust_remote_code=True
            )
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
"""


def portable(family, folder):
    model = tiny_model(family, layers=4)
    kept = uneven(model)
    compaction = compact(model, unit_masks(model, lambda unit: kept.get(unit.key)))
    save_compact(compaction, folder)
    make_portable(folder, load_plugins())
    return compaction


def test_a_process_without_prune_core_computes_the_same_bits(tmp_path):
    for name in ("models", "inputs", "outputs"):
        (tmp_path / name).mkdir()
    expected = {}
    for family in FAMILIES:
        compaction = portable(family, tmp_path / "models" / family)
        inputs = {name: value for name, value in tiny_inputs(compaction.model).items() if name != "labels"}
        _, auto = loading_class(compaction.model)
        torch.save((inputs, auto), tmp_path / "inputs" / family)
        with torch.no_grad():
            expected[family] = compaction.model.eval()(**inputs).logits
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "models")]
    cache = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment() | cache)
    assert done.returncode == 0, done.stderr
    for family in FAMILIES:
        assert torch.equal(torch.load(tmp_path / "outputs" / family), expected[family]), family


def test_what_puts_out_tuples_is_proven_as_well(tmp_path):
    """A configuration that asks for hidden states and attention maps makes tuples of the outputs."""
    model = tiny_model("bert")
    model.config.output_hidden_states = True
    kept = uneven(model)
    compaction = compact(model, unit_masks(model, lambda unit: kept.get(unit.key)))
    batch = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}

    def ship(folder, hidden):
        with portably(folder, load_plugins(), compaction, [batch]) as draft:
            save_compact(compaction, draft)
            compaction.model.config.output_hidden_states = hidden

    ship(tmp_path / "model", hidden=True)
    assert (tmp_path / "model" / f"{MODULE}.py").is_file()
    with pytest.raises(VerificationError, match=r"--portable: .* puts out 4 tensors, here 1; no model was written"):
        ship(tmp_path / "other", hidden=False)
    assert not (tmp_path / "other").exists()


def test_with_prune_core_the_file_is_never_run_and_does_not_travel(tmp_path):
    compaction = portable("bert", tmp_path / "model")
    (tmp_path / "model" / f"{MODULE}.py").write_text("raise RuntimeError('it was run')")
    again = type(compaction.model).from_pretrained(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(everything(again), everything(compaction.model), strict=True))
    assert type(AutoModel.from_pretrained(tmp_path / "model")).__module__ == "transformers.models.bert.modeling_bert"
    again.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_the_file_needs_nothing_of_ours(tmp_path):
    portable("t5", tmp_path)
    text = (tmp_path / f"{MODULE}.py").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in lines if "prune_core" in line]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoModelForSeq2SeqLM"] == f"{MODULE}.T5ForConditionalGeneration"
    assert config["architectures"] == ["T5ForConditionalGeneration"]


def test_zeros_on_disk_are_refused(tmp_path):
    model = tiny_model("bert")
    save_compact(compact(model, random_masks(model, "block", sparse=True)), tmp_path)
    with pytest.raises(ModelError, match="cannot load without prune_core, for loading needs zeros on disk"):
        make_portable(tmp_path, load_plugins())
    assert not (tmp_path / f"{MODULE}.py").exists()


def test_a_whole_model_needs_no_file(tmp_path):
    save_compact(compact(tiny_model("bert"), MaskSet({})), tmp_path)
    make_portable(tmp_path, load_plugins())
    assert not (tmp_path / f"{MODULE}.py").exists()


def _environment():
    import os

    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
