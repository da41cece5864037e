"""The gated feed-forward part of DINOv2's largest model: gate and up are apart in memory, and one matrix on disk."""

import copy

import pytest
from safetensors.torch import load_file

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_model


def gated():
    return tiny_model("dinov2", use_swiglu_ffn=True, mlp_ratio=3)


def difference(one, other):
    pairs = zip(everything(one), everything(other), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def masks_of(model, kind):
    kept = uneven(model)
    if kind == "sparse":
        return random_masks(model, "element", sparse=True)
    return unit_masks(model, lambda unit: [] if kind == "emptied" else kept[unit.key])


@pytest.mark.parametrize("kind", ["whole units", "emptied", "sparse"])
def test_it_is_the_masked_model_and_reloads(kind, tmp_path):
    model = gated()
    assert all(unit.gate and unit.gate.endswith("mlp.gate_proj") for unit in structure_of(model).ffn)
    masks = masks_of(model, kind)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks)
    assert difference(compaction.model, masked) <= 1e-5
    save_compact(compaction, tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert difference(again, compaction.model) == 0
    again.save_pretrained(tmp_path / "again")
    assert difference(type(model).from_pretrained(tmp_path / "again"), again) == 0


def test_zeros_of_what_is_fused_on_disk_are_stored_and_counted(tmp_path):
    model = gated()
    masks = random_masks(model, "element", sparse=True)
    compaction = compact(model, masks)
    save_compact(compaction, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert [name for name in stored if name.endswith("weights_out.weight_mask")]
    assert not [name for name in stored if "weights_in.weight_mask" in name or "gate_proj" in name]
    structure = structure_of(model)
    fused = {f"{path}.weight" for unit in structure.ffn for path in (unit.up, unit.gate)}
    left = {name: int(mask.expand().sum()) for name, mask in masks.items()}
    count = sum(weight.numel() if name in fused else left[name] for name, weight in structure.weights(model))
    assert compaction.density == pytest.approx(count / structure.size(model))
    (note,) = compaction.notes
    zeros = sum(masks[name].expand().numel() - left[name] for name in fused)
    assert note.startswith(f"{zeros} zeros of {len(fused)} weights such as ")
    assert compact(tiny_model("dinov2"), random_masks(tiny_model("dinov2"), "element", sparse=True)).notes == ()


def test_one_size_for_all_layers_keeps_the_neurons():
    model = gated()
    masks = unit_masks(model, lambda unit: [0, 1] if "attention" in unit.key else range(20))
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks, "uniform")
    assert difference(compaction.model, masked) <= 1e-5
    assert {unit.count for unit in structure_of(compaction.model).attention} == {2}
    assert any("neurons: the configuration" in note for note in compaction.notes)
