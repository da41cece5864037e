"""Heads for other labels: as many of them, or those of another kind of head, are no reason to keep what they learnt."""

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from prune_core.folders.pretrained import load_pretrained
from prune_core.testing.tiny import LABELS, tiny_model

FAMILIES = ["bert", "roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert", "gpt2", "bart", "vit"]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_an_output_for_each_label_is_new_and_nothing_else(family, tmp_path):
    auto = AutoModelForImageClassification if family == "vit" else AutoModelForSequenceClassification
    saved = tiny_model(family, head=auto.__name__.removeprefix("AutoModelFor"))
    saved.save_pretrained(tmp_path)
    before = dict(saved.named_parameters())
    for new_head in (False, True):
        after = dict(load_pretrained(auto, str(tmp_path), num_labels=LABELS, new_head=new_head).named_parameters())
        assert after.keys() == before.keys()
        other = {name for name, value in after.items() if not torch.equal(value, before[name])}
        outputs = {name for name, value in after.items() if value.shape[:1] == (LABELS,)}
        assert other == (outputs if new_head else set())
        assert all(value.isfinite().all() for value in after.values())
