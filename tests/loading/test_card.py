"""The model card says how to load the model, and what it says works."""

import re

import pytest
import torch
import transformers
from transformers import (
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
from prune_core.folders.saving import save_compact
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
    _, _, body = text.split("---\n", 2)
    assert "`import prune_core`" in body.splitlines()[0]
