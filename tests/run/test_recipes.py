"""The recipes of the repository: each is checked as `prune run RECIPE --dry-run` does, on stand-ins for the hub.

Tiny data sets stand under PRUNE_DATA, tiny models (of 32 features a head, so that the recipes' blocks fit) for BERT.
"""

import json
import random
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from transformers import BertForQuestionAnswering

from prune_core.errors import DataError, PruneError
from prune_core.recipe import read_yaml
from prune_core.runs.configuring import validated
from prune_core.runs.run import check
from prune_core.testing.tiny import tiny_model
from tests.meta.inputs import _tokenizer
from tests.meta.tree import ROOT

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PUBLISHED = json.loads((ROOT / "benchmarks" / "published_networks.json").read_text())["networks"]
WORDS = ("good", "great", "bad", "awful", "a", "the", "film", "very")

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))


def rows(name: str, count: int) -> dict[str, list]:
    draw = random.Random(count)
    numbers = range(count)
    if name.startswith("squad"):
        contexts = [sentence(draw) for _ in numbers]
        answers = [{"text": [text.split()[1]], "answer_start": [text.index(text.split()[1])]} for text in contexts]
        questions = [sentence(draw) for _ in numbers]
        return {"id": [str(n) for n in numbers], "context": contexts, "question": questions, "answers": answers}
    if name.startswith("mnli"):
        pairs = {"premise": [sentence(draw) for _ in numbers], "hypothesis": [sentence(draw) for _ in numbers]}
        return {**pairs, "label": [n % 3 for n in numbers]}
    return {"sentence": [sentence(draw) for _ in numbers], "label": [n % 2 for n in numbers]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """Data sets as PRUNE_DATA, and a model for each kind of task."""
    folder = tmp_path_factory.mktemp("hub")
    splits = dict.fromkeys(("squad", "sst2"), ("train", "validation"))
    splits["mnli"] = ("train", "validation_matched", "validation_mismatched")
    for name, parts in splits.items():
        for count, part in enumerate(parts, start=30):
            Dataset.from_dict(rows(name, count)).to_parquet(folder / f"{name}-{part}.parquet")
    sizes = {"hidden_size": 64, "max_position_embeddings": 512}
    for name, labels in (("squad", 2), ("mnli", 3), ("sst2", 2)):
        model = tiny_model("bert", heads=2, num_labels=labels, **sizes)
        if name == "squad":
            model = BertForQuestionAnswering(model.config)
        model.save_pretrained(folder / name)
        _tokenizer().save_pretrained(folder / name)
    return folder


def stood_in(path: Path, hub: Path) -> dict:
    """The recipe with the stand-in of its model and teacher."""
    tree = read_yaml(path)
    task = tree["task"]
    model = str(hub / (task if isinstance(task, str) else task.get("dataset_config")))
    teacher = {"teacher": model} if tree.get("teacher") not in (None, "self", "none", "auto") else {}
    return {**tree, "model": model, **teacher}


@every_recipe
def test_it_is_whole(path: Path) -> None:
    recipe = validated(read_yaml(path), str(path))
    assert recipe.model
    assert recipe.task.dataset


@every_recipe
def test_a_dry_run_passes(path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNE_DATA", str(hub))
    plan = check(validated({**stood_in(path, hub), "output": str(tmp_path / "run")}))
    recipe = validated(read_yaml(path))
    assert plan["strategy"] == recipe.strategy.name
    assert plan["steps"] == (recipe.training.max_steps or recipe.training.epochs * -(-30 // recipe.training.batch_size))
    assert not (tmp_path / "run").exists()


FAULTS = {
    "a field": ({"strategy": {"attention_blocks": [32, 32]}}, "attention_block"),
    "a plugin": ({"strategy": {"name": "hybird"}}, "hybrid"),
    "a column": ({"task": {"columns": {"context": "contxt"}}}, "context"),
    "divisibility": ({"strategy": {"attention_block": [48, 48]}}, "48"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dry_run_finds(fault: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of what it is to check, put wrong in a published recipe."""
    monkeypatch.setenv("PRUNE_DATA", str(hub))
    path = ROOT / "recipes" / "published" / "squad-base-88.72.yaml"
    wrong, hint = FAULTS[fault]
    tree = {**stood_in(path, hub), "task": {"name": "squad"}}
    for section, values in wrong.items():
        tree[section] = {**tree[section], **values}
    with pytest.raises(PruneError, match=hint):
        check(validated(tree))


def test_data_that_are_not_there_are_found(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="rajpurkar/squad"):
        check(validated(stood_in(ROOT / "recipes" / "published" / "squad-base-88.72.yaml", hub)))


def test_there_is_one_for_every_published_network() -> None:
    """The densities are those of the published networks, in weights of the prunable linears."""
    found = {
        path.stem.rpartition("-")[2]: yaml.safe_load(path.read_text()) for path in RECIPES if "published" in path.parts
    }
    for network in PUBLISHED:
        recipe = found[str(network["metric"])]
        large = network["base"] == "bert-large"
        layers, size, neurons = (24, 1024, 4096) if large else (12, 768, 3072)
        kept = 4 * 64 * size * sum(network["heads_per_layer"]) + 2 * size * sum(network["ffn_per_layer"])
        whole = layers * (4 * size * size + 2 * size * neurons)
        assert recipe["strategy"]["density"] == pytest.approx(kept / whole, abs=6e-4)
        assert ("large" in recipe["model"]) == large
        assert recipe["strategy"]["name"] == ("structured" if network["method"] == "struct" else "hybrid")
        assert ("fill" in recipe) == network["method"].endswith("filled")
