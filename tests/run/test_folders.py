"""What can be done with the folders afterwards: verify, compact and evaluate."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prune_core.errors import DataError, MaskError, ModelError, RecipeError, RunError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.pretrained import load_saved
from prune_core.masks import MaskSet
from prune_core.recipe import Recipe, TaskSection
from prune_core.runs.run import evaluate_folder
from prune_core.runs.verifying import verify_run
from prune_core.testing.sample_masks import random_masks
from prune_core.testing.tiny import tiny_model


@pytest.fixture
def own_run(finished, tmp_path):
    """A copy of a finished run, to be damaged."""

    def get(strategy="structured", family="bert"):
        return Path(shutil.copytree(finished(family, strategy)[0], tmp_path / "run"))

    return get


def change(folder, weights, name, edit):
    state = weights(folder)
    state[name] = edit(state[name])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _last(weight):
    rows = torch.zeros(len(weight), 1)
    rows[-1] = 1
    return rows


def test_no_verb_shows_the_bars_of_transformers(finished, tmp_path):
    folder = finished()[0]
    prune = [str(Path(sys.executable).with_name("prune"))]
    for arguments in (
        ["verify", folder],
        ["compact", folder / "masked", folder / "masks.safetensors", "--output", tmp_path / "small"],
    ):
        done = subprocess.run([*prune, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "it/s" not in done.stderr
        assert "%|" not in done.stderr


class TestVerify:
    BIAS = "bert.encoder.layer.0.attention.output.dense.bias"

    def test_a_folder_that_is_no_run(self, tmp_path):
        with pytest.raises((RunError, RecipeError, MaskError)) as caught:
            verify_run(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_model_of_other_sizes(self, own_run, finished):
        folder = own_run()
        shutil.rmtree(folder / "model")
        shutil.copytree(finished("bert", "hybrid")[0] / "model", folder / "model")
        with pytest.raises(RunError, match=r"is not the model that the masks make: .* has shape"):
            verify_run(folder)

    def test_a_model_of_other_weights(self, own_run, weights):
        folder = own_run()
        change(folder / "model", weights, self.BIAS, lambda bias: bias + 1e-3)
        found = verify_run(folder)
        assert not found.passed
        assert found.compact_vs_reloaded > 0

    def test_other_masks(self, own_run):
        """Masks that the model was not made by: everything kept in the first unit that lost something."""
        folder = own_run()
        masks = MaskSet.load(folder / "masks.safetensors")
        kept = {name: mask for name, mask in masks.items() if ".layer.0." not in name}
        MaskSet(kept).save(folder / "masks.safetensors")
        with pytest.raises(RunError, match="is not the model that the masks make"):
            verify_run(folder)

    def test_a_filled_model_is_verified_by_its_sizes(self, own_run):
        assert verify_run(own_run("hybrid")).passed

    @pytest.mark.parametrize("strategy", ["structured", "hybrid"])
    def test_a_weight_that_no_sample_reads(self, strategy, own_run, weights):
        """Every text is shorter than 24 tokens: the last position never counts, and yet it is not what was proven."""
        folder = own_run(strategy)
        change(folder / "model", weights, "bert.embeddings.position_embeddings.weight", lambda w: w + 1e-3 * _last(w))
        found = verify_run(folder)
        assert found.changed == ("model.safetensors",)
        assert not found.passed
        assert "not as the run wrote them: model.safetensors" in found.fault

    def test_a_filled_model_of_other_weights(self, own_run, weights):
        folder = own_run("hybrid")
        change(folder / "model", weights, self.BIAS, lambda bias: bias + 1e-3)
        assert verify_run(folder).changed == ("model.safetensors",)

    def test_a_filled_model_of_another_configuration(self, own_run):
        folder = own_run("hybrid")
        config = folder / "model" / "config.json"
        config.write_text(config.read_text().replace('"gelu"', '"relu"'))
        assert verify_run(folder).changed == ("config.json",)

    def test_a_manifest_without_digests(self, own_run):
        folder = own_run("hybrid")
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["sha256"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match=r"has no sha256 of the model.*run it again"):
            verify_run(folder)

    @pytest.mark.parametrize("name", ["masked", "model"])
    def test_a_missing_folder(self, name, own_run):
        folder = own_run()
        shutil.rmtree(folder / name)
        with pytest.raises(RunError, match=f"{name} is gone: prune run .* --resume makes it again"):
            verify_run(folder)

    def test_a_tokenizer_that_is_gone_and_what_decides_nothing(self, own_run):
        folder = own_run()
        (folder / "model" / "README.md").write_text("mine")
        (folder / "model" / "notes.txt").write_text("mine")
        assert verify_run(folder).passed
        (folder / "model" / "tokenizer.json").unlink()
        assert verify_run(folder).changed == ("tokenizer.json",)


class TestCompactFolder:
    @pytest.mark.parametrize(("family", "strategy"), [("bert", "structured"), ("bert", "block"), ("vit", "block")])
    def test_it_makes_the_model_of_the_run_again(self, family, strategy, finished, weights, tmp_path):
        folder, manifest = finished(family, strategy)
        report = compact_folder(folder / "masked", folder / "masks.safetensors", tmp_path / "again")
        one, other = weights(folder / "model"), weights(tmp_path / "again")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert report["density"] == manifest["density"]["reached"]
        assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "again").glob("*.safetensors"))
        processor = "tokenizer.json" if family == "bert" else "preprocessor_config.json"
        assert (tmp_path / "again" / processor).is_file()

    def test_a_model_of_few_tokens_is_proven_on_as_many(self, write_bert, tmp_path):
        dense = Path(write_bert(tmp_path / "short", max_position_embeddings=6))
        random_masks(load_saved(str(dense)), "head").save(tmp_path / "masks.safetensors")
        report = compact_folder(dense, tmp_path / "masks.safetensors", tmp_path / "small")
        assert report["verification"]["samples"] == 4

    def test_what_is_there_is_never_replaced(self, finished, tmp_path):
        folder, _ = finished()
        (tmp_path / "mine").write_text("mine")
        for output in (tmp_path, tmp_path / "mine"):
            with pytest.raises(DataError, match="exists already; choose another --output"):
                compact_folder(folder / "masked", folder / "masks.safetensors", output)
        assert (tmp_path / "mine").read_text() == "mine"

    def test_masks_of_another_model(self, finished, tmp_path):
        folder, _ = finished()
        random_masks(tiny_model("vit"), "head").save(tmp_path / "masks.safetensors")
        with pytest.raises(MaskError, match=r"'vit\.layers.*which the model does not have"):
            compact_folder(folder / "masked", tmp_path / "masks.safetensors", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_missing_masks(self, finished, tmp_path):
        with pytest.raises(MaskError, match="no masks at"):
            compact_folder(finished()[0] / "masked", tmp_path / "masks.safetensors", tmp_path / "out")

    def test_no_model(self, finished, tmp_path):
        with pytest.raises(ModelError, match=r"holds no config\.json"):
            compact_folder(tmp_path, finished()[0] / "masks.safetensors", tmp_path / "out")


class TestEvaluateFolder:
    @pytest.mark.parametrize(("family", "strategy"), [("bert", "hybrid"), ("vit", "block")])
    def test_the_figures_are_those_of_the_run(self, family, strategy, finished, inputs):
        folder, manifest = finished(family, strategy)
        task = TaskSection(**{**inputs[family]["task"], "train_file": None})
        assert evaluate_folder(Recipe(model=str(folder / "model"), task=task, device="cpu")) == pytest.approx(
            manifest["metrics"]["pruned"], abs=1e-6
        )
        assert evaluate_folder(Recipe(model=inputs[family]["model"], task=task, device="cpu")) == pytest.approx(
            manifest["metrics"]["dense"], abs=1e-6
        )

    def test_accuracy_by_hand(self, finished, inputs):
        folder, _ = finished("bert", "structured")
        path = Path(inputs["bert"]["task"]["validation_file"])
        rows = [line.rpartition(",")[::2] for line in path.read_text().splitlines()[1:]]
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
        tokens = AutoTokenizer.from_pretrained(folder / "model")(
            [text for text, _ in rows], padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            guesses = model(**tokens).logits.argmax(-1)
        right = sum(model.config.id2label[int(guess)] == label for guess, (_, label) in zip(guesses, rows, strict=True))
        task = TaskSection(name="text-classification", validation_file=path)
        figures = evaluate_folder(Recipe(model=str(folder / "model"), task=task, device="cpu"))
        assert figures["accuracy"] == pytest.approx(right / len(rows))

    @pytest.mark.parametrize(("labels", "found"), [(2, "2 labels: LABEL_0, LABEL_1"), (7, "LABEL_4, ...")])
    def test_a_head_for_other_labels_has_no_figures(self, labels, found, inputs, write_bert, tmp_path):
        new = write_bert(tmp_path / "new", num_labels=labels)
        with pytest.raises(
            ModelError, match=rf"new has no head trained for the labels .*{found}.*fine-tune it first"
        ) as e:
            evaluate_folder(Recipe(model=new, task=TaskSection(**inputs["bert"]["task"]), device="cpu"))
        assert "\n" not in str(e.value)

    def test_nothing_is_written(self, finished, inputs, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        task = TaskSection(**inputs["bert"]["task"])
        evaluate_folder(Recipe(model=str(finished()[0] / "model"), task=task, device="cpu"))
        assert list(tmp_path.iterdir()) == []

    def test_no_data(self, finished):
        recipe = Recipe(model=str(finished()[0] / "model"), task=TaskSection(name="text-classification"), device="cpu")
        with pytest.raises(DataError, match="no data"):
            evaluate_folder(recipe)


def test_the_config_of_the_model_names_the_dense_heads(finished):
    folder, manifest = finished("bert", "structured")
    units = json.loads((folder / "model" / "config.json").read_text())["quantization_config"]["units"]
    kept = {
        key: len(entry["kept"]) if isinstance(entry["kept"], list) else entry["kept"] for key, entry in units.items()
    }
    assert kept == {unit["key"]: unit["kept"] for unit in manifest["units"]}
