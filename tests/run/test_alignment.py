"""A run that aligns sizes: measured once, kept to ever after, and told."""

import shutil

import pytest

from prune_core.compaction import alignment
from prune_core.errors import RecipeError, RunError
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run

OPTIONS = {"neuron_multiple": 1}
"""By itself a strategy leaves multiples of 8."""


@pytest.fixture
def likes(monkeypatch):
    """`likes(16)`: a clock on which multiples of 16 take half the time."""

    def set_clock(of):
        def time_calls(calls, rounds, device):
            return {name: [1.0 if int(name) % of == 0 else 2.0] * rounds for name in calls}

        monkeypatch.setattr(alignment, "time_calls", time_calls)

    return set_clock


def test_what_was_measured_is_kept_to(recipe, likes, same_result, tmp_path):
    """By a run that goes on, by its fill, and by the proof that is done again, whatever the device likes by then."""
    likes(16)
    mine = recipe(tmp_path / "run", strategy="hybrid", options=OPTIONS, align="auto")
    manifest = run(mine)
    held = {unit["key"]: unit["kept"] for unit in manifest["units"] if unit["key"].endswith(".ffn")}
    assert manifest["alignment"]["asked"] == "auto"
    sizes = manifest["alignment"]["sizes"]
    assert any(size["kept"] > size["needed"] for size in sizes)
    assert all(held[key] == size["kept"] for size in sizes for key in size["units"])
    assert manifest["density"]["reached"] > manifest["density"]["ragged"]
    assert any("which is faster (2.00x" in note for note in manifest["notes"])
    likes(10**6)
    assert verify_run(tmp_path / "run").passed
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    shutil.rmtree(tmp_path / "run" / "model")
    again = run(mine, resume=True)
    assert again["alignment"] == manifest["alignment"]
    assert same_result(tmp_path / "run", tmp_path / "before")


def test_another_alignment_is_another_run(recipe, tmp_path):
    run(recipe(tmp_path / "run", options=OPTIONS, align=16))
    with pytest.raises(RunError, match=r"was made by another recipe, align \(16 before, 8 now\)"):
        run(recipe(tmp_path / "run", options=OPTIONS, align=8), resume=True)
    run(recipe(tmp_path / "run", options=OPTIONS), overwrite=True)
    assert not (tmp_path / "run" / "alignment.json").exists()


def test_a_compactor_that_cannot_is_told_before_anything_is_trained(recipe, tmp_path):
    with pytest.raises(RecipeError, match="align: UniformCompactor decides sizes by itself"):
        check(recipe(tmp_path / "run", family="vit", compactor="uniform", align=8))
