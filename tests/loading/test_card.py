"""The model card says how to load the model, and what it says works."""

import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from transformers import (
    AutoModel,
    BertForPreTraining,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    DeiTForImageClassificationWithTeacher,
    DistilBertForMaskedLM,
    ElectraForPreTraining,
    RobertaForMaskedLM,
)

from prune_core.compaction import compact
from prune_core.folders.compacting import compact_folder
from prune_core.folders.saving import save_compact
from prune_core.masks import MaskSet
from prune_core.recipe import Recipe
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_model

CLASSES = [
    (BertModel, "AutoModel"),
    (BertLMHeadModel, "AutoModelForCausalLM"),
    (BertForPreTraining, "AutoModelForPreTraining"),
    (BertForSequenceClassification, "AutoModelForSequenceClassification"),
    (RobertaForMaskedLM, "AutoModelForMaskedLM"),
    (DistilBertForMaskedLM, "AutoModelForMaskedLM"),
    (ElectraForPreTraining, "AutoModelForPreTraining"),
    (DeiTForImageClassificationWithTeacher, "AutoModelForImageClassification"),
]


class OfNobody(BertForSequenceClassification):
    """A class that is not of transformers."""


def card(model, folder):
    """Save `model` compact; the text of its card and the names that its code defines, run with that folder."""
    compaction = compact(model, unit_masks(model, lambda unit: (0, 2)))
    save_compact(compaction, folder)
    text = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(code.replace("this folder", str(folder)), names)
    return text, names, compaction.model


def built(wanted):
    family = wanted.config_class.model_type
    return wanted(tiny_model(family).config).eval()


@pytest.mark.parametrize(("wanted", "auto"), CLASSES, ids=lambda found: getattr(found, "__name__", ""))
def test_its_code_loads_the_model_that_was_saved(wanted, auto, tmp_path):
    text, names, saved = card(built(wanted), tmp_path / "model")
    assert f"from transformers import {auto}\n" in text
    assert type(names["model"]) is wanted
    expected, found = saved.state_dict(), names["model"].state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_class_that_no_auto_class_knows_is_named_itself(tmp_path, monkeypatch):
    inside = type("BertForNothing", (BertForSequenceClassification,), {"__module__": BertModel.__module__})
    monkeypatch.setattr(transformers, "BertForNothing", inside, raising=False)
    text, names, _ = card(built(inside), tmp_path / "inside")
    assert "from transformers import BertForNothing\n" in text
    assert type(names["model"]) is inside


def test_a_class_of_somebody_else_is_imported_from_where_it_is(tmp_path):
    text, names, _ = card(built(OfNobody), tmp_path / "model")
    assert f"from {__name__} import OfNobody\n" in text
    assert type(names["model"]) is OfNobody


def test_its_first_lines_say_what_to_import(tmp_path):
    text, _, _ = card(built(BertModel), tmp_path / "model")
    first, second = ModelCard(text).text.strip().split("\n\n")[:2]
    assert first == "# Pruned BertModel"
    assert "after `import prune_core`" in second


DENSE = """---
base_model: an-org/a-bert
base_model_relation: finetune
language: de
license: cc-by-4.0
tags: [sentiment, pruned]
widget: [text: Ein Film]
model-index:
- name: ours
  results:
  - task: {type: text-classification}
    dataset: {name: films, type: custom}
    metrics: [{type: accuracy, value: 0.93125}]
---
# Films

Trained on **films**.
"""


@pytest.fixture
def dense(tmp_path):
    """A folder of a dense model with a card."""
    tiny_model("bert").save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "README.md").write_text(DENSE)
    return tmp_path / "dense"


def halved(source, folder):
    model = BertForSequenceClassification.from_pretrained(source)
    save_compact(compact(model, unit_masks(model, lambda unit: (0, 2))), folder, source=source)
    return ModelCard.load(folder / "README.md")


def test_what_the_hub_reads_of_the_dense_model_stays(dense, tmp_path):
    data = halved(dense, tmp_path / "small").data.to_dict()
    assert data == {
        "base_model": "an-org/a-bert",
        "language": "de",
        "library_name": "transformers",
        "license": "cc-by-4.0",
        "pipeline_tag": "text-classification",
        "tags": ["pruned", "prune", "sentiment"],
        "widget": [{"text": "Ein Film"}],
    }


def test_the_text_of_the_dense_card_stands_below_with_its_figures_and_ours_above(dense, tmp_path):
    text = halved(dense, tmp_path / "small").text
    above, below = text.split("## The card of the dense model")
    assert below.rstrip().endswith("# Films\n\nTrained on **films**.")
    assert "value: 0.93125" in below
    assert "0.93125" not in above
    for row in ("| heads | 8 | 4 |", "| neurons | 128 | 4 |", "| layer.1.attention | 2 | 4 |"):
        assert row in above
    bytes_of = [sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (dense, tmp_path / "small")]
    assert "| bytes on disk | {:,} | {:,} |".format(*bytes_of) in above


def test_a_damaged_card_is_told_and_stops_nothing(dense, tmp_path, caplog):
    (dense / "README.md").write_text("---\nlicense: [\n---\n")
    card = halved(dense, tmp_path / "small")
    assert "its card cannot be read" in caplog.text
    assert card.data.license is None
    assert "from_pretrained" in card.text


def test_a_compact_folder_is_compacted_again_with_both_cards(dense, tmp_path):
    halved(dense, tmp_path / "small")
    model = AutoModel.from_pretrained(tmp_path / "small")
    save_compact(compact(model, MaskSet({})), tmp_path / "again", source=tmp_path / "small")
    card = ModelCard.load(tmp_path / "again" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.tags == ["pruned", "prune", "sentiment"]
    assert card.text.count("# Films\n") == 1


def test_compact_keeps_the_card_and_a_portable_folder_is_loaded_as_it_says(dense, tmp_path):
    model = BertForSequenceClassification.from_pretrained(dense)
    masks = unit_masks(model, lambda unit: (0, 2))
    masks.save(tmp_path / "masks.safetensors")
    compact_folder(dense, tmp_path / "masks.safetensors", tmp_path / "small", Recipe(portable=True))
    card = ModelCard.load(tmp_path / "small" / "README.md")
    assert card.data.license == "cc-by-4.0"
    code = card.text.split("```python\n")[1].split("```")[0]
    assert "import prune_core" not in code
    stranger = "import sys; sys.modules['prune_core'] = None\n" + code.replace("this folder", str(tmp_path / "small"))
    found = "\nprint(model.bert.encoder.layer[0].intermediate.dense.out_features)"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", stranger + found], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2


def test_a_uniform_folder_is_loaded_without_us(dense, tmp_path):
    model = tiny_model("vit")
    save_compact(compact(model, unit_masks(model, lambda unit: (0, 2)), "uniform"), tmp_path / "small")
    text = (tmp_path / "small" / "README.md").read_text()
    assert "Load this model like any other:" in text
    assert "prune_core" not in text
