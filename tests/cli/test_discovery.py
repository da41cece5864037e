"""`prune inspect` of a model of no known family, and `prune compact --portable` of it."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.compaction.test_discovery import LUKE, tiny


def test_inspect_says_what_was_found(prune: Callable, tmp_path: Path) -> None:
    tiny("ernie").save_pretrained(tmp_path)
    report = json.loads(prune("inspect", tmp_path, "--json").out)
    (stack,) = report["layout"]["stacks"]
    assert (report["architecture"], stack["layers"]) == ("ernie", "encoder.layer")
    assert stack["attention"]["attention"]["query"] == "attention.self.query"
    assert stack["ffn"]["down"] == "output.dense"
    assert "attention.self.query" in prune("inspect", tmp_path).out


def test_inspect_by_a_recipe_that_names_the_modules(prune: Callable, tmp_path: Path) -> None:
    tiny("luke").save_pretrained(tmp_path / "luke")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"architecture": {"stacks": [LUKE]}}))
    refused = prune("inspect", tmp_path / "luke")
    assert refused.code
    assert "w2e_query" in refused.err
    units = json.loads(prune("inspect", tmp_path / "luke", "--recipe", recipe, "--json").out)["units"]
    assert len(units) == 8


def test_a_model_pruned_elsewhere_by_a_recipe_that_names_its_modules(prune: Callable, tmp_path: Path) -> None:
    """Its shrunk matrices are read by the same names."""
    model = tiny("luke")
    for layer in model.luke.encoder.layer if hasattr(model, "luke") else model.encoder.layer:
        layer.output.dense.weight.data[:, :32] = 0
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(tmp_path / "pruned")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"architecture": {"stacks": [LUKE]}}))
    refused = prune("compact", tmp_path / "pruned", "--output", tmp_path / "small")
    assert refused.code
    assert "w2e_query" in refused.err
    assert not (tmp_path / "small").exists()
    done = prune("compact", tmp_path / "pruned", "--output", tmp_path / "small", "--recipe", recipe)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"]["units"]["layer.0.ffn"] == {"kept": 32, "of": 64}


def test_compact_what_was_found_and_make_it_portable(prune: Callable, tmp_path: Path) -> None:
    model = tiny("ernie")
    for layer in model.ernie.encoder.layer:
        layer.output.dense.weight.data[:, :32] = 0
    model.save_pretrained(tmp_path / "pruned")
    done = prune("compact", tmp_path / "pruned", "--output", tmp_path / "small", "--portable")
    assert done.code == 0, done.err
    assert (tmp_path / "small" / "modeling_prune.py").is_file()
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["quantization_config"]["units"]["layer.0.ffn"] == {"kept": 32, "of": 64}
    assert config["auto_map"]["AutoModel"] == "modeling_prune.ErnieModel"
