"""Word embeddings in few bits: what runs and `prune compact` write, prove and report of them, and what they refuse."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from prune_core.embeddings.bits import EXPONENT, rounded
from prune_core.errors import ModelError, RecipeError
from prune_core.folders.compacting import compact_folder
from prune_core.measure import folder_size
from prune_core.recipe import Recipe
from prune_core.runs.run import check, evaluate_folder, run
from prune_core.runs.verifying import verify_run

WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits") / "run"
    return folder, run(recipe(folder, strategy="hybrid", embedding_bits=4))


def test_the_model_of_a_run_is_the_rounded_one(trained, recipe):
    folder, manifest = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    words = model.get_input_embeddings().weight
    assert torch.equal(words, rounded(words, 4))
    assert f"{WORDS.removesuffix('weight')}{EXPONENT}" in load_file(folder / "model" / "model.safetensors")
    found = evaluate_folder(recipe(folder).model_copy(update={"model": str(folder / "model"), "device": "cpu"}))
    assert found == pytest.approx(manifest["metrics"]["pruned"])


def test_a_run_reports_what_rounding_costs(trained, finished):
    folder, manifest = trained
    found = manifest["rounding"]
    assert (found["bits"], found["embeddings"]) == (4, (WORDS,))
    assert 0 < found["mean_difference"] <= found["largest_difference"] < found["largest_output"]
    assert found["in_full"] == finished("bert", "hybrid")[1]["metrics"]["pruned"]
    rows = {row["figure"]: row["pruned"] for row in manifest["summary"]}
    assert rows["accuracy, embeddings in full"] == f"{found['in_full']['accuracy']:.4f}"
    assert "in the mean" in rows["outputs changed by embeddings in 4 bits"]
    size = folder_size(folder / "model") + found["bytes_in_full"] - found["bytes"]
    assert rows["bytes on disk, embeddings in full"] == f"{size:,}"
    assert "masked = compact (before the fill)" in rows


def test_a_run_is_verified_with_what_it_rounded(recipe, tmp_path):
    folder = tmp_path / "run"
    manifest = run(recipe(folder, embedding_bits=8))
    assert "masked = compact (before the rounding)" in {row["figure"] for row in manifest["summary"]}
    assert manifest["verification"]["compact_vs_reloaded"] == 0
    assert verify_run(folder).passed
    state = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    with torch.no_grad():
        state.get_input_embeddings().weight[3] *= 2  # as exactly stored as before, and another model
    state.save_pretrained(folder / "model")
    assert not verify_run(folder).passed


def test_bits_may_be_chosen_after_the_training(recipe, finished, tmp_path):
    folder = tmp_path / "run"
    run(recipe(folder))
    (folder / "manifest.json").unlink()
    manifest = run(recipe(folder, embedding_bits=8), resume=True)
    assert manifest["rounding"]["bits"] == 8
    assert manifest["rounding"]["in_full"] == finished("bert", "structured")[1]["metrics"]["pruned"]


@pytest.mark.parametrize("strategy", ["hybrid", "unstructured"])
def test_prune_compact_rounds_what_it_proved(strategy, finished, tmp_path):
    """With zeros on disk (unstructured) as without."""
    folder, _ = finished("bert", strategy)
    report = compact_folder(
        folder / "masked", folder / "masks.safetensors", tmp_path / "small", Recipe(embedding_bits=8)
    )
    full = compact_folder(folder / "masked", folder / "masks.safetensors", tmp_path / "full")
    assert report["verification"] == full["verification"]
    assert report["verification"]["compact_vs_reloaded"] == 0
    assert report["rounding"]["largest_difference"] > 0
    assert report["bytes_in_full"] == pytest.approx(full["bytes"], abs=200)
    one, other = (AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("small", "full"))
    before, after = other.get_parameter(WORDS), one.get_parameter(WORDS)
    assert torch.equal(rounded(before, 8), after)
    others = [name for name, value in one.state_dict().items() if not torch.equal(value, other.state_dict()[name])]
    assert others == [WORDS]


def test_prune_compact_takes_a_model_of_which_nothing_was_pruned(inputs, tmp_path):
    report = compact_folder(inputs["bert"]["model"], None, tmp_path / "small", Recipe(embedding_bits=8))
    assert report["density"] == 1
    assert json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]["embedding_bits"] == 8
    again = compact_folder(tmp_path / "small", None, tmp_path / "again", Recipe(embedding_bits=8))
    assert again["rounding"]["largest_difference"] == 0


@pytest.mark.parametrize("other", [{"portable": True}, {"compactor": "uniform"}], ids=str)
def test_what_is_to_load_without_prune_core_is_refused(other, recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"embedding_bits needs prune_core to load, .*: leave one out"):
        recipe(tmp_path / "run", embedding_bits=8, **other)


def test_a_model_without_words_is_refused_before_it_is_trained(recipe, tmp_path):
    with pytest.raises(ModelError, match="embedding_bits: ViTForImageClassification has no word embeddings"):
        check(recipe(tmp_path / "run", family="vit", embedding_bits=8))


def test_other_bits_are_refused(recipe, tmp_path):
    with pytest.raises(RecipeError, match="embedding_bits: Input should be 4 or 8, found 3"):
        recipe(tmp_path / "run", embedding_bits=3)
