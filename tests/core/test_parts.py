"""Parts of a model with densities of their own, such as encoder and decoder."""

import pytest
from pydantic import ValidationError

from prune_core.errors import PruneError, StructureError
from prune_core.pruning import Pruning
from prune_core.testing.tiny import tiny_model
from tests.core.loops import STRATEGIES, Training, stored_density, stored_in

STACKS = {"encoder.*": 0.7, "decoder.*": 0.4}


@pytest.mark.parametrize("binarizer", ["topk", "hard_concrete"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_stack_lands_on_its_own(strategy, binarizer):
    model = tiny_model("t5", heads=8)
    training = Training(model, strategy, 8, part_densities=STACKS, binarizer=binarizer).run()
    aimed = training.pruning.strategy.target
    masks = training.pruning.finish()
    for part, density in STACKS.items():
        assert density - 0.07 < stored_in(model, masks, part[:-1]) <= density
    assert 0.4 < aimed < 0.7
    assert aimed - 0.07 < stored_density(model, masks) <= aimed


def test_the_rest_has_the_density_of_all():
    model = tiny_model("bert", heads=8, layers=3)
    options = {"density": 0.3, "part_densities": {"layer.0.*": 1.0, "layer.1.ffn": 0.5}}
    masks = Training(model, "structured", 8, **options).run().pruning.finish()
    assert stored_in(model, masks, "layer.0.") == 1.0
    assert stored_in(model, masks, "layer.1.ffn") == 0.5
    reached = [stored_in(model, masks, f"layer.{key}") for key in ("1.attention", "2.attention", "2.ffn")]
    assert 0.2 < sum(reached) / 3 <= 0.3, "a tiny BERT's attention has as many weights as its FFN"


def test_a_rest_that_is_excluded_stays_whole():
    model = tiny_model("t5", heads=8)
    options = {"part_densities": {"decoder.*": 0.4}, "exclude": ("encoder.*",)}
    training = Training(model, "structured", 8, **options).run()
    aimed = training.pruning.strategy.target
    masks = training.pruning.finish()
    assert stored_in(model, masks, "encoder.") == 1.0
    assert 0.33 < stored_in(model, masks, "decoder.") <= 0.4
    assert aimed - 0.07 < stored_density(model, masks) <= aimed
    said = Pruning(tiny_model("t5", heads=8), "structured", total_steps=4, density=1, **options)
    assert said.strategy.target == aimed
    with pytest.raises(StructureError, match=r"density 0.5 cannot be reached: the parts left alone hold 1.000"):
        Pruning(tiny_model("t5"), "structured", total_steps=4, density=0.5, **options)


def test_pressure_aims_at_each():
    model = tiny_model("t5", heads=8)
    Training(model, "structured", 10, part_densities=STACKS, binarizer="threshold").run(9)
    assert [press.target.item() for press in model.pruning.lagrangians] == pytest.approx(list(STACKS.values()))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"part_densities": {"encoder.*": 0.5}},
            r"part_densities: 'encoder.\*' names no prunable unit; there are layer",
        ),
        (
            {"part_densities": {"layer.0.*": 0.5, "*.ffn": 0.5}},
            r"part_densities: 'layer.0.\*' and '\*.ffn' both name layer.0.ffn",
        ),
        (
            {"part_densities": {"layer.0.*": 0.3}, "exclude": ("layer.0.attention",)},
            r"density 0.3 cannot be reached in layer.0.\*: the parts left alone hold 0.500",
        ),
        ({"part_densities": {"layer.0.*": 0.3}, "exclude": ("layer.0.*",)}, r"layer.0.\*: nothing would be removed"),
    ],
)
def test_what_cannot_be_is_refused(options, fault):
    with pytest.raises(StructureError, match=fault):
        Pruning(tiny_model("bert"), "structured", total_steps=4, **options)


@pytest.mark.parametrize("options", [{"part_densities": {"*": 1.5}}, {"part_densities": STACKS, "penalty_weight": 2.0}])
def test_mistakes_in_the_field(options):
    with pytest.raises((PruneError, ValidationError), match="part_densities"):
        Pruning(tiny_model("bert"), "structured", total_steps=4, **options)


def test_a_pattern_has_one_density():
    with pytest.raises(PruneError, match="pattern 2:4 fixes the density of every part: leave part_densities out"):
        Pruning(tiny_model("bert"), "unstructured", total_steps=4, pattern="2:4", part_densities={"layer.0.*": 0.5})
