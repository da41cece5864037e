"""What an earlier run decided binds a later one: heads that may not go (rewind), weights that stay gone (within)."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from prune_core.compaction import compact
from prune_core.errors import MaskError, RecipeError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.pruning import Pruning
from prune_core.strategy import Progress
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_model
from prune_unstructured.config import UnstructuredConfig
from tests.core.loops import BLOCKS, ONE_UNIT, STRATEGIES, Training, groups_of, same, small_units, stored_density

VARIANTS = [
    *((name, {}) for name in STRATEGIES),
    ("structured", {"binarizer": "threshold"}),
    ("structured", {"attention": "slices"}),
    ("hybrid", {"joint_attention": True}),
    ("hybrid", {"scope": "local"}),
    ("unstructured", {"scope": "local"}),
    ("block", {"binarizer": "topk"}),
]
every_variant = pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=lambda value: str(value))


@pytest.fixture
def heads(tmp_path: Path) -> tuple[Path, dict[str, list[int]]]:
    """Masks of an earlier run that kept three heads of one layer and two of the other, and which these are."""
    kept = {"layer.0.attention": [0, 3, 5], "layer.1.attention": [1, 2]}
    unit_masks(small_units(), lambda unit: kept.get(unit.key)).save(tmp_path / "masks.safetensors")
    return tmp_path, kept


def lines(unit, module, kept, mask):
    """The part of a mask that belongs to the heads `kept`, expanded."""
    whole = unit.slice_of(module)
    index = torch.tensor([head * whole.size + i for head in kept for i in range(whole.size)])
    return mask.expand().index_select(0 if whole.axis == "rows" else 1, index)


@every_variant
def test_heads_of_an_earlier_run_may_not_be_pruned(strategy, options, heads):
    folder, kept = heads
    density = 0.4 if strategy == "block" else 0.3  # a block of eight rows holds two heads
    model = small_units()
    training = Training(model, strategy, 10, density=density, rewind=folder, **options).run(5)
    structure = structure_of(model)
    for masks in (training.pruning.masks(), training.run().pruning.finish()):
        for key, indices in kept.items():
            unit = structure.unit(key)
            for module in unit.linears():
                assert lines(unit, module, indices, masks[f"{module}.weight"]).all(), module
    assert density - ONE_UNIT[strategy] < stored_density(model, masks) <= density
    left = {unit.key: unit.kept for unit in compact(model, masks).units}
    assert all(set(indices) <= set(left[key]) for key, indices in kept.items())


def test_without_it_some_of_them_go(heads):
    _, kept = heads
    model = small_units()
    masks = Training(model, "structured", 10, density=0.1).run().pruning.finish()
    left = {unit.key: unit.kept for unit in compact(model, masks).units}
    assert any(not set(indices) <= set(left[key]) for key, indices in kept.items())


def test_a_file_of_masks_does_as_well(heads):
    folder, _ = heads
    of_folder = Training(small_units(), "hybrid", 6, density=0.4, rewind=folder).run().pruning.masks()
    of_file = Training(small_units(), "hybrid", 6, density=0.4, rewind=folder / "masks.safetensors").run()
    assert same(of_folder, of_file.pruning.masks())


@every_variant
def test_what_was_pruned_stays_pruned(strategy, options, tmp_path):
    earlier = Training(small_units(), strategy, 8, density=0.6, **options).run().pruning.finish()
    earlier.save(tmp_path / "masks.safetensors")
    model = small_units()
    training = Training(model, strategy, 10, seed=1, density=0.35, within=tmp_path, **options).run(5)
    for masks in (training.pruning.masks(), training.run().pruning.finish()):
        assert masks.keys() == earlier.keys()
        for name in masks:
            assert not (masks[name].expand() & ~earlier[name].expand()).any(), name
    assert 0.35 - ONE_UNIT[strategy] < stored_density(model, masks) <= 0.35


def pruned(model, strategy, **options):
    pruning = Pruning(model, strategy, total_steps=2, **options)
    pruning.step(), pruning.step()
    return pruning.finish()


PAIRS = [
    ("structured", "unstructured", True),
    ("structured", "hybrid", False),
    ("block", "unstructured", True),
    ("hybrid", "unstructured", True),
    ("block", "structured", False),
    ("unstructured", "structured", False),
    ("unstructured", "block", False),
    ("hybrid", "block", False),
    ("hybrid", "structured", False),
]
"""A strategy, one that goes on from it, and whether its scores cover nothing pruned beside something kept."""


@pytest.mark.parametrize(("before", "after", "fits"), PAIRS)
def test_what_was_pruned_does_not_come_back_with_what_is_coarser(before, after, fits, tmp_path):
    earlier = pruned(small_units(), before, density=0.5, **BLOCKS[before])
    earlier.save(tmp_path / "masks.safetensors")
    options = {"density": 0.3, "within": tmp_path, **BLOCKS[after]}
    model = small_units()
    if not fits:
        with pytest.raises(RecipeError, match=r"strategy\.within: \d+ weights of \S+ that .* share scores of .* with"):
            Pruning(model, after, total_steps=2, **options)
        assert all(type(module) is nn.Linear for module in model.modules() if isinstance(module, nn.Linear))
        return
    later = pruned(model, after, **options)
    assert not [name for name in earlier if (later[name].expand() & ~earlier[name].expand()).any()]


def test_the_density_starts_where_the_earlier_run_ended(tmp_path):
    earlier = Training(small_units(), "structured", 8, density=0.6, binarizer="topk").run().pruning.finish()
    earlier.save(tmp_path / "masks.safetensors")
    model = small_units()
    options = {"density": 0.3, "within": tmp_path, "binarizer": "topk", "schedule": "linear", "warmup": 0.0}
    pruning = Pruning(model, "structured", total_steps=100, cooldown=0.0, **options)
    began = stored_density(small_units(), earlier)
    for done, expected in ((0, began), (50, (began + 0.3) / 2), (99, 0.3)):
        pruning.strategy.step(Progress(done, 100))
        reached = stored_density(small_units(), pruning.masks())
        assert expected - 2 * ONE_UNIT["structured"] < reached <= expected + 0.01


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_training_is_bound_as_well(strategy, heads):
    folder, _ = heads
    options = {"density": 0.35, "rewind": folder}
    whole = Training(small_units(), strategy, 8, **options).run()
    first = Training(small_units(), strategy, 8, **options).run(4)
    second = Training(small_units(), strategy, 8, **options).resume(first.state()).run()
    assert same(whole.pruning.finish(), second.pruning.finish())
    mine, theirs = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_bounds_are_no_part_of_a_checkpoint(heads):
    folder, _ = heads
    model = small_units()
    Training(model, "structured", 4, density=0.5, rewind=folder)
    assert any(group.held.any() for group in groups_of(model))
    assert not {name for name in model.state_dict() if name.endswith((".held", ".gone"))}


class TestRefusals:
    def test_a_density_below_what_the_heads_hold(self, heads):
        folder, _ = heads
        message = r"density 0\.05 cannot be reached: the parts left alone and the heads of rewind hold 0\.1"
        with pytest.raises(StructureError, match=message):
            Pruning(small_units(), "structured", total_steps=4, density=0.05, rewind=folder)

    def test_a_density_above_what_is_left(self, heads):
        folder, _ = heads
        with pytest.raises(StructureError, match=r"density 0\.9 cannot be reached: strategy\.within leaves 0\.656"):
            Pruning(small_units(), "structured", total_steps=4, density=0.9, within=folder)

    @pytest.mark.parametrize("field", ["rewind", "within"])
    def test_masks_that_are_not_there_or_of_another_model(self, field, heads, tmp_path):
        folder, _ = heads
        with pytest.raises(MaskError, match=rf"strategy\.{field}: no masks at .*nowhere"):
            Pruning(small_units(), "structured", total_steps=4, **{field: tmp_path / "nowhere"})
        with pytest.raises(
            MaskError, match=rf"strategy\.{field}: the mask of .* is for shape \[32, 32\], the model has"
        ):
            Pruning(tiny_model("bert", hidden_size=64), "structured", total_steps=4, **{field: folder})

    def test_a_pattern_cannot_keep_heads_whole(self, heads):
        with pytest.raises(ValidationError, match="pattern 2:4 cannot keep whole heads"):
            UnstructuredConfig(pattern="2:4", rewind=heads[0])
