"""`prune compact MODEL` without masks: models that were pruned elsewhere load, verify and become compact folders."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune as torch_prune
from transformers import AutoConfig

from prune_core.errors import MaskError, ModelError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.linears import linear
from prune_core.recipe import Recipe
from prune_core.testing.tiny import tiny_inputs, tiny_model

HEADS = {"layer.0.attention": [1], "layer.1.attention": [0, 2, 3]}
NEURONS = {"layer.0.ffn": range(5, 64), "layer.1.ffn": range(40)}
"""What was removed of each unit of a BERT of 4 heads of 8 features and 64 neurons."""


def logits(model):
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


def zeroed(family="bert", *, biases=True):
    """A model with the heads and neurons at zero, by hand."""
    model = tiny_model(family)
    structure = structure_of(model)
    with torch.no_grad():
        for key, heads in HEADS.items():
            unit = structure.unit(key)
            for head in heads:
                lines = slice(head * unit.head_size, (head + 1) * unit.head_size)
                for name in (unit.query, unit.key_, unit.value):
                    linear(model, name).weight[lines] = 0
                    if biases and linear(model, name).bias is not None:
                        linear(model, name).bias[lines] = 0
                linear(model, unit.output).weight[:, lines] = 0
        for key, neurons in NEURONS.items():
            unit, gone = structure.unit(key), list(neurons)
            linear(model, unit.up).weight[gone] = 0
            if biases:
                linear(model, unit.up).bias[gone] = 0
            linear(model, unit.down).weight[:, gone] = 0
    return model


def shrunk(model):
    """Its weights as nn_pruning left them: the rows and columns are not there, but for the biases of the outputs."""
    state, structure = model.state_dict(), structure_of(model)
    for key, gone in {**HEADS, **NEURONS}.items():
        unit = structure.unit(key)
        width = getattr(unit, "head_size", 1)
        total = len(state[f"{next(iter(unit.linears()))}.weight"])
        dead = {index * width + offset for index in gone for offset in range(width)}
        kept = [index for index in range(total) if index not in dead]
        *inner, output = unit.linears()
        for name in inner:
            state[f"{name}.weight"], state[f"{name}.bias"] = (
                state[f"{name}.{part}"][kept].clone() for part in ("weight", "bias")
            )
        state[f"{output}.weight"] = state[f"{output}.weight"][:, kept].clone()
    return state


def folder_of_2021(folder: Path, state, binary: bool, pruned_heads=None):
    model = tiny_model("bert")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["pruned_heads"] = pruned_heads or {key.split(".")[1]: heads for key, heads in HEADS.items()}
    (folder / "config.json").write_text(json.dumps(config))
    if binary:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def check(report, folder, expected):
    removed = {unit["key"]: unit["total"] - len(unit["kept"]) for unit in report["units"]}
    assert removed == {key: len(gone) for key, gone in {**HEADS, **NEURONS}.items()}
    torch.testing.assert_close(logits(load_saved(str(folder))), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("biases", [True, False], ids=["biases too", "biases left"])
def test_zeros_of_anybody(family, biases, tmp_path):
    model = zeroed(family, biases=biases)
    model.save_pretrained(tmp_path / "zeros")
    report = compact_folder(tmp_path / "zeros", None, tmp_path / "compact")
    check(report, tmp_path / "compact", logits(model))
    assert report["density"] < 0.6


def test_the_dtype_of_the_folder_stays(tmp_path):
    """A folder in bfloat16 is not doubled in size by being compacted."""
    model = zeroed().bfloat16()
    model.save_pretrained(tmp_path / "zeros")
    expected = logits(model)
    report = compact_folder(tmp_path / "zeros", None, tmp_path / "compact")
    assert report["density"] < 0.6
    stored = load_file(tmp_path / "compact" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    compact = load_saved(str(tmp_path / "compact"), "auto")
    torch.testing.assert_close(logits(compact), expected, atol=2e-2 * float(expected.abs().max()), rtol=0)


def test_torch_nn_utils_prune(tmp_path):
    """Saved before prune.remove: the weight is in two parts, which from_pretrained takes for a missing one."""
    model = tiny_model("bert")
    unit = structure_of(model).unit("layer.0.ffn")
    torch_prune.ln_structured(linear(model, unit.up), "weight", amount=0.5, n=2, dim=0)
    torch_prune.ln_structured(linear(model, unit.down), "weight", amount=0.25, n=2, dim=1)
    expected = logits(model)
    state = model.state_dict()
    assert f"{unit.up}.weight_orig" in state
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path / "parts")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "parts" / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"holds no weights .* torch.nn.utils.prune left .*; `prune compact` makes a model of them"
    ):
        load_saved(str(tmp_path / "parts"))
    report = compact_folder(tmp_path / "parts", None, tmp_path / "compact")
    kept = {unit["key"]: len(unit["kept"]) for unit in report["units"]}
    assert 24 <= kept["layer.0.ffn"] <= 32  # a neuron goes when its row is gone, or its column
    torch.testing.assert_close(logits(load_saved(str(tmp_path / "compact"))), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("binary", [True, False], ids=["pytorch_model.bin", "safetensors"])
def test_a_folder_of_2021(binary, tmp_path):
    """transformers 5 ignores `pruned_heads` and cannot load these matrices."""
    model = zeroed()
    old = folder_of_2021(tmp_path / "old", shrunk(model), binary)
    with pytest.raises(ModelError):
        load_saved(str(old))
    report = compact_folder(old, None, tmp_path / "compact")
    check(report, tmp_path / "compact", logits(model))
    assert not getattr(AutoConfig.from_pretrained(tmp_path / "compact"), "pruned_heads", None)


@pytest.mark.parametrize(
    ("pruned_heads", "message"),
    [
        ({"0": [1, 2], "1": [0, 2, 3]}, "24 rows; pruned_heads in config.json leaves 2 of 4 heads of 8"),
        ({"1": [0, 2, 3]}, "leaves 4 of 4 heads of 8 in layer.0.attention"),
    ],
)
def test_pruned_heads_that_do_not_fit_are_refused(pruned_heads, message, tmp_path):
    old = folder_of_2021(tmp_path / "old", shrunk(zeroed()), False, pruned_heads)
    with pytest.raises(ModelError, match=message):
        compact_folder(old, None, tmp_path / "compact")
    assert not (tmp_path / "compact").exists()


def test_a_matrix_that_is_no_part_is_refused(tmp_path):
    state = shrunk(zeroed())
    name = "bert.encoder.layer.0.output.dense.weight"
    state[name] = state[name][:, :3].clone()
    with pytest.raises(ModelError, match=rf"{name} has shape \[32, 3\], which is no part of \[32, 64\]"):
        compact_folder(folder_of_2021(tmp_path / "old", state, False), None, tmp_path / "compact")


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    old = folder_of_2021(tmp_path / "old", {"bert.weight": Harm()}, True)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin holds more than weights"):
        compact_folder(old, None, tmp_path / "compact")
    assert not (tmp_path / "harm").exists()


def test_a_model_without_zeros_is_refused(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path / "dense")
    with pytest.raises(MaskError, match="none of the 12 prunable weights of this BertForSequenceClassification has a"):
        compact_folder(tmp_path / "dense", None, tmp_path / "compact")


def test_a_compact_model_has_no_zeros_to_compact_by(tmp_path):
    zeroed().save_pretrained(tmp_path / "zeros")
    compact_folder(tmp_path / "zeros", None, tmp_path / "compact")
    with pytest.raises(MaskError, match="it is compact already; for another compaction give the dense model and the"):
        compact_folder(tmp_path / "compact", None, tmp_path / "again", Recipe(compactor="uniform"))


def test_other_zeros_stay_where_they_are(tmp_path):
    """Zeros inside heads and neurons that stay are stored like any weight."""
    model = zeroed()
    with torch.no_grad():
        linear(model, structure_of(model).unit("layer.0.ffn").up).weight[0, ::2] = 0
    model.save_pretrained(tmp_path / "zeros")
    check(compact_folder(tmp_path / "zeros", None, tmp_path / "compact"), tmp_path / "compact", logits(model))
    stored = load_file(tmp_path / "compact" / "model.safetensors")
    assert int((stored["bert.encoder.layer.0.intermediate.dense.weight"][0] == 0).sum()) == 16


def test_no_tokenizer_is_made_up(tmp_path):
    """transformers makes one of five marks where a folder has none: nobody shall find it in the compact folder."""
    zeroed().save_pretrained(tmp_path / "zeros")
    compact_folder(tmp_path / "zeros", None, tmp_path / "compact")
    assert not list((tmp_path / "compact").glob("tokenizer*"))


def test_code_beside_a_model_is_not_run_and_not_asked_for(tmp_path, monkeypatch):
    zeroed().save_pretrained(tmp_path / "zeros")
    config = json.loads((tmp_path / "zeros" / "config.json").read_text())
    names = {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}
    (tmp_path / "zeros" / "config.json").write_text(json.dumps(config | {"model_type": "harm", "auto_map": names}))
    (tmp_path / "zeros" / "harm.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError):
        compact_folder(tmp_path / "zeros", None, tmp_path / "compact")
    assert not (tmp_path / "harm").exists()
