"""A folder of sentence-transformers stays one: through a run, through `prune compact`, and saved again."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from prune_core.compaction import compact
from prune_core.errors import ModelError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.saving import save_compact
from prune_core.runs.run import evaluate_folder
from prune_core.runs.run import run as run_recipe
from prune_core.runs.verifying import verify_run
from prune_core.testing.sample_masks import unit_masks

WORDS = ("film", "a", "the", "very", "longer", "good", "bad", "neutral")
TEXTS = ["a good film", "the very bad film longer", "neutral", "a film the film a film the film"]
BESIDE = {
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_Normalize/config.json",
}


@pytest.fixture(scope="module")
def dense(write_bert, tmp_path_factory):
    """A tiny BERT with mean pooling, a layer of 8 features and length 1, and files that are no data."""
    folder = tmp_path_factory.mktemp("sentences")
    base = write_bert(folder / "bert")
    torch.manual_seed(0)
    modules = [Transformer(base), Pooling(32), Dense(32, 8), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "dense"))
    for name in ("2_Dense/code.py", "2_Dense/old.bin", "notes.json"):
        (folder / "dense" / name).write_text("{}")
    return folder / "dense"


@pytest.fixture(scope="module")
def done(dense, tmp_path_factory):
    """Folder and manifest of a run on it, with texts alone to learn from."""
    folder = tmp_path_factory.mktemp("embeddings")
    texts = [" ".join(WORDS[(i * j) % 8] for j in range(1, 3 + i % 5)) for i in range(24)]
    pd.DataFrame({"text": texts}).to_csv(folder / "train.csv", index=False)
    pairs = {"one": texts[:12], "other": texts[12:], "score": [i % 5 for i in range(12)]}
    pd.DataFrame(pairs).to_csv(folder / "validation.csv", index=False)
    return folder / "run", run_recipe(_recipe(dense, folder))


def _recipe(model, folder):
    from prune_core.runs.configuring import validated

    files = {f"{name}_file": str(folder / f"{name}.csv") for name in ("train", "validation")}
    return validated(
        {
            "model": str(model),
            "task": {"name": "sentence-embedding", **files},
            "strategy": {"name": "structured", "density": 0.5},
            "training": {"max_steps": 8, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
            "measure": {"batch_size": 1, "length": 8, "rounds": 3},
            "device": "cpu",
            "output": str(folder / "run"),
        }
    )


def embed(folder):
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)


def beside(folder):
    """What lies in a model's folder and is not the transformer's own."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if "/" in name or "sentence" in name or name in ("modules.json", "notes.json")}


def test_a_run_leaves_such_a_folder(done):
    folder, manifest = done
    assert manifest["teacher"] == "self"
    assert manifest["density"]["reached"] == pytest.approx(0.5, abs=0.1)
    for name in ("masked", "model"):
        assert beside(folder / name) == BESIDE
    found = embed(folder / "model")
    assert found.shape == (len(TEXTS), 8)
    torch.testing.assert_close(found, embed(folder / "masked"), atol=1e-5, rtol=0)


def test_the_embeddings_were_learnt(done):
    lines = (done[0] / "metrics.jsonl").read_text().splitlines()
    assert len(lines) > 8
    assert {"spearman", "pearson"} <= done[1]["metrics"]["pruned"].keys()
    assert done[1]["metric"]["name"] == "spearman"


def test_its_figures_are_found_again(done, dense):
    from prune_core.recipe import Recipe, TaskSection

    section = TaskSection(name="sentence-embedding", validation_file=done[0].parent / "validation.csv")
    for model, figures in ((done[0] / "model", "pruned"), (dense, "dense")):
        found = evaluate_folder(Recipe(model=str(model), task=section, device="cpu"))
        assert found == pytest.approx(done[1]["metrics"][figures], abs=1e-6)


def test_it_is_saved_and_loaded_again(done, tmp_path):
    SentenceTransformer(str(done[0] / "model"), device="cpu").save_pretrained(str(tmp_path / "again"))
    assert torch.equal(embed(tmp_path / "again"), embed(done[0] / "model"))


def test_compact_makes_the_same_folder(done, tmp_path):
    compact_folder(done[0] / "masked", done[0] / "masks.safetensors", tmp_path / "compact")
    assert beside(tmp_path / "compact") == BESIDE
    assert ModelCard.load(tmp_path / "compact" / "README.md").data.pipeline_tag == "sentence-similarity"
    assert torch.equal(embed(tmp_path / "compact"), embed(done[0] / "model"))


def test_the_card_says_how_it_is_loaded(done):
    text = (done[0] / "model" / "README.md").read_text()
    data = ModelCard(text).data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.tags[:3] == ["pruned", "prune", "sentence-transformers"]
    assert {result.metric_type for result in data.eval_results} >= {"spearman", "pearson"}
    ours, _, of_dense = text.partition("## The card of the dense model")
    assert "SentenceTransformer" in of_dense
    assert "after `import prune_core`" in ours
    (code,) = re.findall(r"```python\n(.*?)```", ours, flags=re.DOTALL)
    names: dict = {}
    exec(code.replace("this folder", str(done[0] / "model")), names)
    assert isinstance(names["model"], SentenceTransformer)


def test_a_change_of_a_module_is_found(done, tmp_path):
    run = Path(shutil.copytree(done[0], tmp_path / "run"))
    assert verify_run(run).passed
    config = run / "model/2_Dense/config.json"
    config.write_text(config.read_text().replace("Tanh", "ReLU"))
    assert verify_run(run).changed == ("2_Dense/config.json",)


def test_your_own_loop_names_the_source(dense, tmp_path):
    model = SentenceTransformer(str(dense), device="cpu")[0].model
    compaction = compact(model, unit_masks(model, lambda unit: (0, 2)))
    save_compact(compaction, tmp_path / "small", SentenceTransformer(str(dense)).tokenizer, source=dense)
    assert beside(tmp_path / "small") == BESIDE
    assert embed(tmp_path / "small").shape == (len(TEXTS), 8)


def test_another_head_takes_no_modules_along(dense, recipe, inputs, tmp_path):
    """The modules read token states, which a classifier does not put out."""
    found = recipe(tmp_path / "run", model=str(dense), training={"max_steps": 1})
    run_recipe(found)
    assert beside(tmp_path / "run" / "model") == set()
    assert "library_name: transformers\n" in (tmp_path / "run/model/README.md").read_text()


def test_a_path_that_leads_outside_stops_before_anything_is_written(dense, done, tmp_path):
    bad = Path(shutil.copytree(done[0] / "masked", tmp_path / "bad"))
    listing = bad / "modules.json"
    listing.write_text(listing.read_text().replace('"1_Pooling"', '"../1_Pooling"'))
    with pytest.raises(ModelError, match=r"the path '\.\./1_Pooling' leads outside the folder"):
        compact_folder(bad, done[0] / "masks.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_modules_with_code_of_their_own_stay_behind(done, tmp_path, caplog):
    own = Path(shutil.copytree(done[0] / "masked", tmp_path / "own"))
    listing = own / "modules.json"
    text = listing.read_text()
    listing.write_text(re.sub(r'"sentence_transformers\.[\w.]*Dense"', '"custom.Dense"', text))
    compact_folder(own, done[0] / "masks.safetensors", tmp_path / "out")
    assert "needs code of its own (custom.Dense): its modules are not copied" in caplog.text
    assert beside(tmp_path / "out") == set()
