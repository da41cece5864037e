"""What a proof compares has to have run: units that no input reaches, and models that do not run, are refused."""

import pytest
import torch

from prune_core.compaction import compact
from prune_core.errors import ModelError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.measure import dummy_inputs
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import tiny_model
from prune_core.verification.reach import expected_through
from prune_core.verification.verify import outputs


def test_outputs_of_all_units_are_those_of_the_model():
    model = tiny_model("gemma3")
    batches = [dummy_inputs(model, 2, 8)]
    found = expected_through(model, structure_of(model).units, batches)
    assert all(torch.equal(one, other) for one, other in zip(found.outputs, outputs(model, batches), strict=True))


def test_units_that_no_input_reaches_are_named():
    model = tiny_model("gemma3")
    texts = [{"input_ids": torch.tensor([[5, 6, 7]])}]
    units = structure_of(model).units
    with pytest.raises(
        ModelError, match=r"inputs of input_ids do not reach vision\.layer\.0\.attention and 3 other units"
    ):
        expected_through(model, units, texts)
    assert not any(module._forward_pre_hooks for module in model.modules())
    expected_through(model, [unit for unit in units if unit.key.startswith("text")], texts)


def test_a_model_that_does_not_run_on_what_is_known_is_refused():
    model = tiny_model("gemma3")
    images = dummy_inputs(model, 2, 8)["pixel_values"]
    batch = {"input_ids": torch.tensor([[5, 6, 7]] * 2), "pixel_values": images}
    with pytest.raises(
        ModelError, match="does not run on inputs of input_ids, pixel_values: ValueError: Image features"
    ):
        expected_through(model, structure_of(model).units, [batch])


def test_compaction_on_inputs_that_miss_units_writes_nothing(tmp_path, monkeypatch):
    model = tiny_model("gemma3")
    kept = uneven(model)
    masks = unit_masks(model, lambda unit: kept[unit.key])
    model.save_pretrained(tmp_path / "dense")
    masks.save(str(tmp_path / "masks.safetensors"))
    monkeypatch.setattr(
        "prune_core.folders.compacting.dummy_inputs", lambda model, *_: {"input_ids": torch.tensor([[5, 6, 7]])}
    )
    with pytest.raises(ModelError, match=r"do not reach vision\.layer"):
        compact_folder(tmp_path / "dense", tmp_path / "masks.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_compact_model_with_empty_units_is_no_hindrance(tmp_path):
    """Stubs have nothing that runs, and nothing to prove."""
    model = tiny_model("bert")
    kept = uneven(model)
    save_compact(compact(model, unit_masks(model, lambda unit: kept[unit.key])), tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    expected_through(again, structure_of(again).units, [dummy_inputs(again, 2, 8)])
