"""A run whose masks are 2:4, compacted for kernels that skip the rest."""

import pytest

from prune_core.errors import MaskError
from prune_core.folders.pretrained import load_saved
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run
from prune_core.sparse.forms import TwoOfFour


def test_a_run_ends_in_a_model_of_linears_that_can(recipe, tmp_path):
    options = {"pattern": "2:4", "density": None}
    manifest = run(recipe(tmp_path / "run", strategy="unstructured", options=options, compactor="two-of-four"))
    assert manifest["verification"]["passed"]
    assert manifest["density"]["reached"] == pytest.approx(0.5)
    assert verify_run(tmp_path / "run").passed
    model = load_saved(str(tmp_path / "run" / "model"))
    assert sum(isinstance(module, TwoOfFour) for module in model.modules()) == 12


def test_masks_of_another_kind_are_told_before_anything_is_trained(recipe, tmp_path):
    with pytest.raises(MaskError, match=r"the compactor 'two-of-four' is for 2:4 masks, found .*: prune with"):
        check(recipe(tmp_path / "run", compactor="two-of-four"))
