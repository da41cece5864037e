"""A whole run, end to end, with every strategy on a text and an image model: what it leaves and what it says."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.masks import MaskSet
from prune_core.measure import folder_size
from prune_core.recipe import Recipe
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run

FILES = {"recipe.yaml", "manifest.json", "metrics.jsonl", "masks.safetensors", "masked", "checkpoints", "model"}
FILLS = {"hybrid"}


@pytest.fixture(params=["bert", "vit"])
def family(request):
    return request.param


@pytest.fixture(params=["hybrid", "structured", "block", "unstructured"])
def strategy(request):
    return request.param


def test_everything_is_there(family, strategy, finished):
    folder, manifest = finished(family, strategy)
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest, default=str))
    suffixes = {path.suffix for name in ("masked", "model") for path in (folder / name).rglob("*")}
    assert suffixes <= {".safetensors", ".json", ".txt", ".md"}
    processor = "tokenizer.json" if family == "bert" else "preprocessor_config.json"
    for name in ("masked", "model"):
        assert {"model.safetensors", "config.json", processor} <= {path.name for path in (folder / name).iterdir()}
    assert (folder / "model" / "README.md").is_file()


def test_the_card_reports_what_the_manifest_does(family, strategy, finished):
    folder, manifest = finished(family, strategy)
    card = ModelCard.load(folder / "model" / "README.md")
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == manifest["metrics"][
        "pruned"
    ]
    assert card.data.pipeline_tag == {"bert": "text-classification", "vit": "image-classification"}[family]
    assert str(folder.parent) not in card.content
    for row in manifest["summary"]:
        assert f"| {row['figure']} | {row['dense']} | {row['pruned']} |" in card.text
    assert f"by the strategy {strategy} " in card.text
    assert manifest["speedup"]["machine"]["cpu"] in card.text


def test_the_manifest_is_complete(family, strategy, finished, inputs):
    folder, manifest = finished(family, strategy)
    assert manifest["output"] == str(folder)
    assert (manifest["strategy"], manifest["seed"], manifest["teacher"]) == (strategy, 0, "self")
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["transformers"] == transformers.__version__
    assert {"prune-core", f"prune-{strategy}"} <= manifest["versions"].keys()
    assert manifest["machine"].keys() == {"platform", "python"}
    assert "git" in manifest
    assert manifest["seconds"] > 0
    assert manifest["metric"]["name"] == "accuracy"
    for side in ("dense", "pruned"):
        assert manifest["metric"][side] == manifest["metrics"][side]["accuracy"]
        assert {"accuracy", "f1", "matthews"} <= manifest["metrics"][side].keys()
    assert manifest["verification"]["passed"] is True
    assert manifest["verification"]["samples"] == 18
    assert manifest["speedup"]["speedup"] > 0
    assert manifest["speedup"]["flop_ratio"] >= 1
    sizes = manifest["speedup"]["model"]["file_bytes"], manifest["speedup"]["baseline"]["file_bytes"]
    assert sizes == (folder_size(folder / "model"), folder_size(Path(inputs[family]["model"])))
    assert [unit["key"] for unit in manifest["units"]] == structure_of(load_saved(inputs[family]["model"])).keys()
    assert manifest["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "model").iterdir()
        if path.name != "README.md"
    }
    assert manifest["filled"] == (strategy in FILLS)
    figures = [row["figure"] for row in manifest["summary"]]
    proven = "masked = compact (before the fill)" if strategy in FILLS else "masked = compact"
    assert figures[-2:] == [proven, "compact = reloaded"]
    assert figures[:4] == ["accuracy", f"density (asked {manifest['density']['asked']})", "heads", "neurons"]


def test_it_lands_on_the_density(family, strategy, finished, recipe, tmp_path):
    _, manifest = finished(family, strategy)
    asked = recipe(tmp_path, strategy=strategy).strategy.fields()["density"]
    assert manifest["density"]["asked"] == asked
    assert manifest["density"]["reached"] == pytest.approx(asked, abs=0.06)  # one head is 0.06 of so small a model


def test_the_model_folder_is_what_the_masks_make(family, strategy, finished, weights):
    """Sizes are those of the masks; where nothing was filled the weights are, too."""
    folder, manifest = finished(family, strategy)
    masked, masks = load_saved(str(folder / "masked")), MaskSet.load(folder / "masks.safetensors")
    compaction = compact(masked, masks)
    assert compaction.density == manifest["density"]["reached"]
    saved = load_saved(str(folder / "model"))
    mine, theirs = compaction.model.state_dict(), saved.state_dict()
    assert {name: value.shape for name, value in mine.items()} == {name: value.shape for name, value in theirs.items()}
    equal = all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert equal == (strategy not in FILLS)
    zeros = sum(int((weight == 0).sum()) for _, weight in structure_of(saved).weights(saved))
    if masks.sparse:
        stored = structure_of(saved).size(saved) - zeros
        assert stored / structure_of(masked).size(masked) == pytest.approx(manifest["density"]["reached"], abs=1e-3)
    else:
        assert zeros == 0 or strategy not in FILLS


def test_every_log_line_is_one_json_object(family, strategy, finished):
    folder, _ = finished(family, strategy)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "prune" and "loss" in line]
    assert steps == list(range(1, 9))
    assert all(0 < line["mask_density"] <= 1 for line in lines if line["stage"] == "prune" and "loss" in line)
    assert any(line["stage"] == "fill" for line in lines) == (strategy in FILLS)


def test_the_pruned_model_was_trained_and_not_only_cut(family, strategy, finished, inputs, weights):
    folder, _ = finished(family, strategy)
    before, after = weights(inputs[family]["model"]), weights(folder / "masked")
    embeddings = next(name for name in after if "position_embeddings" in name)
    assert not torch.equal(before[embeddings], after[embeddings])


def test_checkpoints_are_rotated(finished):
    folder, _ = finished("bert", "structured")
    assert sorted(path.name for path in (folder / "checkpoints" / "prune").iterdir()) == [
        "checkpoint-6",
        "checkpoint-8",
    ]


@pytest.mark.parametrize(("family", "strategy"), [("bert", "hybrid"), ("vit", "structured")])
def test_the_resolved_recipe_repeats_the_run(family, strategy, finished, same_result, tmp_path):
    folder, manifest = finished(family, strategy)
    again = Recipe.load(folder / "recipe.yaml").model_copy(update={"output": tmp_path / "again"})
    repeated = run(again)
    assert same_result(folder, tmp_path / "again")
    assert repeated["metrics"] == manifest["metrics"]
    assert Recipe.load(tmp_path / "again" / "recipe.yaml") == again


def test_another_seed_is_another_run(finished, recipe, weights, tmp_path):
    folder, _ = finished("bert", "structured")
    run(recipe(tmp_path / "other", training={"seed": 1}))
    one, other = weights(folder / "masked"), weights(tmp_path / "other" / "masked")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_random_state_before_a_run_does_not_matter(finished, recipe, same_result, tmp_path):
    folder, _ = finished("bert", "structured")
    torch.manual_seed(99)
    torch.randn(17)
    run(recipe(tmp_path / "other"))
    assert same_result(folder, tmp_path / "other")


def test_verify_run_proves_a_finished_run_again(family, strategy, finished):
    folder, _ = finished(family, strategy)
    verification = verify_run(folder)
    assert verification.passed
    assert verification.compact_vs_reloaded == 0
    assert verification.samples == 18


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_check_plans_without_writing(family, recipe, inputs, tmp_path):
    plan = check(recipe(tmp_path / "run", family=family))
    assert plan["steps"] == 8
    assert plan["teacher"] == "self"
    assert plan["task"].endswith("42 examples to train on, 18 to evaluate on")
    assert not (tmp_path / "run").exists()


def test_epochs_count_the_short_last_batch(recipe, tmp_path):
    """42 examples in batches of 8 are 6 steps an epoch."""
    plan = check(recipe(tmp_path / "run", training={"max_steps": None, "epochs": 2.5}))
    assert plan["steps"] == 15
    manifest = run(recipe(tmp_path / "run", training={"max_steps": None, "epochs": 1.5, "batch_size": 16}))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 5
    assert manifest["density"]["reached"] == pytest.approx(0.5, abs=0.06)


def test_a_model_that_takes_fewer_tokens_than_measure_asks_for_still_ends(recipe, tmp_path):
    manifest = run(recipe(tmp_path / "run", measure={"batch_size": 1, "length": 128, "rounds": 3}))
    assert manifest["speedup"]["settings"]["length"] == 24
