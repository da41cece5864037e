"""A family that a plugin describes wrongly: refused before training, caught before anything is on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prune_core import Pruning
from prune_core.errors import StructureError, VerificationError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.plugins import Plugins
from prune_core.recipe import Recipe
from prune_core.testing.sample_masks import unit_masks
from tests.compaction.test_discovery import tiny
from tests.plugins.test_families import describing

Add = Callable[..., None]
Load = Callable[..., Plugins]

WRONG = describing("name='wrong', model_types=('big_bird',)")
"""BigBird has the modules of BERT's layers, but its own code counts heads by the configuration."""


@pytest.fixture
def wrong(add: Add, load: Load) -> None:
    add("prune-wrong", WRONG)
    load()


@pytest.mark.usefixtures("wrong")
def test_it_is_refused_before_anything_is_trained() -> None:
    model = tiny("big_bird")
    assert structure_of(model).owner == "prune-wrong"
    with pytest.raises(
        StructureError, match=r"cannot be compacted by the layout .* on a trial the compact model cannot"
    ):
        Pruning(model, "structured", total_steps=2, density=0.5)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("masked", [False, True], ids=["by its zeros", "by masks"])
def test_prune_compact_leaves_nothing(portable: bool, masked: bool, tmp_path: Path) -> None:
    model = tiny("big_bird")
    masks = unit_masks(model, lambda unit: [0])
    masks.bake(model)
    model.save_pretrained(tmp_path / "masked")
    masks.save(tmp_path / "masks.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    chosen = tmp_path / "masks.safetensors" if masked else None
    with pytest.raises(VerificationError, match="no model was written") as error:
        compact_folder(tmp_path / "masked", chosen, tmp_path / "small", Recipe(portable=portable))
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("how", ["uniform", "depth", "dense"])
def test_a_family_whose_constants_are_wrong(how: str, add: Add, load: Load, tmp_path: Path) -> None:
    """Neurons without an up row add a constant that goes through the activation: here through another one."""
    ffn = "up='intermediate.dense', down='output.dense', activation='output.dropout'"
    stack = f"replace(BERT.stacks[0], ffn=FeedForwardLayout({ffn}))"
    add("prune-wrong", describing(f"name='wrong', model_types=('ernie',), stacks=({stack},)"))
    load()
    model = tiny("ernie")
    for layer in model.ernie.encoder.layer:
        torch.nn.init.zeros_(layer.intermediate.dense.weight)
    model.save_pretrained(tmp_path / "zeros")
    before = sorted(path.name for path in tmp_path.iterdir())
    said = {"uniform": {"compactor": "uniform"}, "depth": {"depth": {"keep": 2}}, "dense": {}}[how]
    with pytest.raises(
        VerificationError, match=r"the models differ: masked - compact .* no model was written: .*prune inspect"
    ):
        compact_folder(tmp_path / "zeros", None, tmp_path / "small", Recipe.parse(said))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
