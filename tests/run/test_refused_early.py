"""What cannot be compacted is refused before it is trained; and what was trained even so leaves no model."""

import pytest
import torch
from transformers import (
    BigBirdConfig,
    BigBirdForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
)

from prune_core.errors import StructureError, VerificationError
from prune_core.runs.run import run
from tests.run.conftest import LABELS, SIZES, WORDS, tokenizer

BERT = {
    "layers": "encoder.layer",
    "attention": {
        "attention": {
            "core": "attention.self",
            **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
            "output": "attention.output.dense",
            "head_size": "attention_head_size",
        }
    },
    "ffn": {"up": "intermediate.dense", "down": "output.dense", "activation": "intermediate.intermediate_act_fn"},
}
"""Right for BERT; BigBird has the same modules, but its own code counts heads by the configuration."""


def write(folder, config_class, model_class, **changes):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
    fields = SIZES | names | {"vocab_size": len(WORDS), "max_position_embeddings": 128, "pad_token_id": 0} | changes
    model_class(config_class(**fields)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_layout_that_a_recipe_describes_wrongly(recipe, monkeypatch, tmp_path):
    model = write(tmp_path / "big-bird", BigBirdConfig, BigBirdForSequenceClassification)
    asked = recipe(tmp_path / "run", model=model, architecture={"stacks": [BERT]}, training={"max_steps": 1})
    with pytest.raises(StructureError, match="cannot be compacted by the layout that was found or given"):
        run(asked)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("prune_core.verification.trial.needed", lambda structure: False)
    with pytest.raises(VerificationError, match="no model was written"):
        run(asked)
    assert "model" not in {path.name for path in (tmp_path / "run").iterdir()}


def test_heads_that_are_mixed_cannot_go(recipe, tmp_path):
    """DeBERTa's talking heads."""
    model = write(tmp_path / "deberta", DebertaConfig, DebertaForSequenceClassification, talking_head=True)
    with pytest.raises(StructureError, match=r"mixes the heads of a layer .* strategy\.exclude: \['\*\.attention'\]"):
        run(recipe(tmp_path / "run", model=model))
    assert not (tmp_path / "run").exists()
    options = {"exclude": ["*.attention"]}
    manifest = run(recipe(tmp_path / "run", model=model, options=options, training={"max_steps": 1}))
    assert manifest["verification"]["passed"] is True
