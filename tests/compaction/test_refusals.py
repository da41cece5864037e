"""Masks that do not fit, and compactors that do not: an error that names the parameter, and nothing half done."""

import copy

import pytest
import torch

from prune_core.compaction import choose, compact
from prune_core.compactor import Compactor
from prune_core.errors import MaskError, ModelError, PluginError
from prune_core.folders.loading import structure_of
from prune_core.granularity import Element
from prune_core.hookspecs import CompactorSpec
from prune_core.masks import Mask, MaskSet
from prune_core.plugins import Offer, Plugins, load_plugins
from prune_core.pruning import Pruning
from prune_core.testing.sample_masks import random_masks
from prune_core.testing.tiny import tiny_model


class OnlyHeads(Compactor):
    accepts = frozenset({"head"})

    def compact(self, model, masks, structure, *, inplace=False):
        raise NotImplementedError


def offering(*names):
    """Plugins with a compactor for heads alone under each of these names."""
    return Plugins(tuple(offer(name, f"{__name__}:OnlyHeads") for name in names), ())


BROKEN = {
    "its module is missing": ("no_such_module:Thing", "no_such_module:Thing cannot be imported: ModuleNotFoundError"),
    "its class is missing": (f"{__name__}:Missing", "Missing cannot be imported: AttributeError"),
    "it is no compactor": (f"{__name__}:element", "a Compactor with a set of granularities in `accepts` was expected"),
    "it accepts nothing": (
        f"{__name__}:NoAccepts",
        "a Compactor with a set of granularities in `accepts` was expected",
    ),
}
"""Why a compactor cannot be used -> its target, and what is said of it."""


class NoAccepts(Compactor):
    def compact(self, model, masks, structure, *, inplace=False):
        raise NotImplementedError


def offer(name, target, distribution="some-plugin"):
    return Offer("compactors", CompactorSpec(name, "of somebody else", target), distribution, "1")


def beside_ours(*offers):
    """What is installed, and these."""
    return Plugins((*load_plugins().offers, *offers), ())


def element(name, *shape):
    return {name: Mask(Element(), torch.zeros(shape, dtype=torch.bool), shape)}


def test_a_parameter_that_the_model_does_not_have_is_named():
    masks = random_masks(tiny_model("vit"), "element")
    with pytest.raises(MaskError, match=r"'vit\.layers\.0\.attention\.q_proj\.weight', which the model does not have"):
        compact(tiny_model("bert"), masks)


def test_a_parameter_of_another_shape_is_named():
    other = tiny_model("bert", intermediate_size=32)
    masks = MaskSet(
        {name: mask for name, mask in random_masks(other, "element").items() if "intermediate.dense.weight" in name}
    )
    with pytest.raises(
        MaskError, match=r"bert\.encoder\.layer\.0\.intermediate\.dense\.weight.*\[32, 32\].*\[64, 32\]"
    ):
        compact(tiny_model("bert"), masks)


@pytest.mark.parametrize("wrong", [element("no.such.weight", 2, 2), element("classifier.weight", 2, 2)])
def test_inplace_changes_nothing_when_it_refuses(wrong):
    model = tiny_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError):
        compact(model, MaskSet({**random_masks(model, "element"), **wrong}), inplace=True)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == []


def test_auto_takes_the_only_one_that_accepts_the_masks():
    model = tiny_model("bert")
    assert type(choose(random_masks(model, "block"), "auto", load_plugins())).__name__ == "DenseCompactor"


@pytest.mark.parametrize(("target", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_auto_skips_a_compactor_that_cannot_be_used_and_says_so(target, reason, caplog):
    masks = random_masks(tiny_model("bert"), "block")
    chosen = choose(masks, "auto", beside_ours(offer("broken", target)))
    assert type(chosen).__name__ == "DenseCompactor"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the compactor broken was skipped: " in record.getMessage()
    assert reason in record.getMessage()


def test_auto_skips_a_compactor_whose_name_has_two_owners(caplog):
    masks = random_masks(tiny_model("bert"), "block")
    target = f"{__name__}:OnlyHeads"
    chosen = choose(masks, "auto", beside_ours(offer("twin", target, "one"), offer("twin", target, "two")))
    assert type(chosen).__name__ == "DenseCompactor"
    assert "twin was skipped: the compactor 'twin' has several owners, one and two" in caplog.text


def test_auto_says_nothing_where_nothing_is_skipped(caplog):
    choose(random_masks(tiny_model("bert"), "block"), "auto", load_plugins())
    assert caplog.records == []


def test_auto_gives_the_reasons_where_nothing_fits():
    masks = random_masks(tiny_model("bert"), "block")
    unusable = [offer(f"broken {index}", target) for index, (target, _) in enumerate(BROKEN.values())]
    plugins = Plugins((*offering("narrow").offers, *unusable), ())
    with pytest.raises(
        PluginError, match="block masks: none of narrow accepts them, install one that does; broken 0 was skipped: "
    ) as error:
        choose(masks, "auto", plugins)
    assert "\n" not in str(error.value)
    for _, reason in BROKEN.values():
        assert reason in str(error.value)
    with pytest.raises(
        PluginError, match="block masks: none is installed that can be used, install one; broken 0 was skipped: "
    ):
        choose(masks, "auto", Plugins(tuple(unusable), ()))


def test_a_double_of_ours_is_the_reason_where_nothing_fits():
    masks = random_masks(tiny_model("bert"), "block")
    plugins = beside_ours(offer("dense", f"{__name__}:OnlyHeads", "some-plugin"))
    with pytest.raises(
        PluginError, match=r"dense was skipped: .* prune-core and some-plugin; .*PRUNE_DISABLE=some-plugin"
    ):
        choose(masks, "auto", plugins)


@pytest.mark.parametrize(("target", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_compactor_asked_for_by_name_is_refused(target, reason):
    masks = random_masks(tiny_model("bert"), "block")
    with pytest.raises(PluginError) as error:
        choose(masks, "broken", beside_ours(offer("broken", target)))
    assert reason in str(error.value)


def test_auto_names_what_there_is_when_none_accepts_the_masks():
    masks = random_masks(tiny_model("bert"), "block")
    with pytest.raises(PluginError, match=r"block masks: none of narrow accepts them"):
        choose(masks, "auto", offering("narrow"))


def test_auto_names_all_that_accept_the_masks_when_several_do():
    masks = random_masks(tiny_model("bert"), "head")
    with pytest.raises(PluginError, match=r"head masks: several accept them: one, other; name one with --compactor"):
        choose(masks, "auto", offering("one", "other"))


def test_a_compactor_asked_for_by_name_must_accept_the_masks():
    masks = random_masks(tiny_model("bert"), "block")
    with pytest.raises(MaskError, match="'narrow' does not accept block masks"):
        choose(masks, "narrow", offering("narrow"))


def test_an_unknown_compactor_is_answered_with_the_nearest_name():
    model = tiny_model("bert")
    with pytest.raises(PluginError, match="unknown compactor 'dence': did you mean 'dense'"):
        compact(model, random_masks(model, "block"), "dence")


def test_excluded_layers_are_left_alone():
    model = tiny_model("bert")
    first = [name for name in structure_of(model).linears() if ".layer.0." in name]
    masks = MaskSet({f"{name}.weight": random_masks(model, "row")[f"{name}.weight"] for name in first})
    smaller = compact(model, masks).model
    for name, tensor in smaller.state_dict().items():
        if ".layer.0." not in name:
            assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_model_that_is_still_being_pruned():
    model = tiny_model("bert")
    pruning = Pruning(model, "structured", total_steps=2, density=0.5)
    with pytest.raises(ModelError, match=r"this BertFor\w+ is still being pruned: call finish\(\)"):
        compact(model, pruning.masks())
    compact(model, pruning.finish())
