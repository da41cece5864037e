"""A family of models with two owners is refused like any other name, until one of them is disabled."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from prune_core.compaction import compact
from prune_core.errors import PluginError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.masks import MaskSet
from prune_core.plugins import Plugins
from prune_core.testing.sample_masks import random_masks, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

Add = Callable[..., None]
Load = Callable[..., Plugins]


def describing(*changes: str) -> str:
    """A plugin that describes a family for each of these changes of core's BERT."""
    families = ", ".join(f"replace(BERT, {change})" for change in changes)
    return (
        "from dataclasses import replace\nfrom prune_core.architectures import FeedForwardLayout\n"
        "from prune_core.architectures.bert import BERT\nFFN = FeedForwardLayout('mlp.up', 'mlp.down', 'mlp.act')\n"
        f"@hookimpl\ndef prune_architectures():\n    return [{families}]\n"
    )


SAME_NAME = describing("model_types=('my-bert',)")
SAME_TYPE = describing("name='rival', model_types=('bert',), stacks=()")


@pytest.mark.parametrize(
    ("source", "what"), [(SAME_NAME, "architecture 'bert'"), (SAME_TYPE, "model type 'bert'")], ids=["name", "type"]
)
def test_two_owners_are_refused_until_one_is_disabled(
    source: str, what: str, add: Add, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("a-rival", source)
    model = tiny_model("bert")
    load()
    with pytest.raises(PluginError, match=f"the {what} has several owners, a-rival and prune-core; ") as error:
        structure_of(model)
    assert "PRUNE_DISABLE=a-rival" in str(error.value), "to disable the core would help nobody"
    assert structure_of(model, load("a-rival")).owner == "prune-core"
    monkeypatch.setenv("PRUNE_DISABLE", "a-rival")
    load()
    assert structure_of(model).owner == "prune-core"


def test_the_other_families_stay_usable(add: Add, load: Load) -> None:
    add("prune-rival", SAME_TYPE)
    load()
    assert [structure_of(tiny_model(family)).owner for family in ("roberta", "vit")] == ["prune-core"] * 2


def test_two_plugins_of_strangers_are_refused_as_well(add: Add, load: Load) -> None:
    model = tiny_model("bert")
    model.config.model_type = "new-bert"
    for number in ("one", "two"):
        add(f"prune-{number}", describing(f"name='{number}', model_types=('new-bert',)"))
    load()
    with pytest.raises(PluginError, match="model type 'new-bert' has several owners, prune-one and prune-two"):
        structure_of(model)
    found = structure_of(model, load("prune-two"))
    assert (found.architecture, found.owner, len(found.units)) == ("one", "prune-one", 4)


def test_one_distribution_may_describe_a_type_twice(add: Add, load: Load) -> None:
    """For the layouts of two releases of transformers, for instance: the one that finds units is taken."""
    model = tiny_model("bert")
    model.config.model_type = "new-bert"
    new = "model_types=('new-bert',)"
    add("prune-new", describing(f"name='before', stacks=(), {new}", f"name='after', {new}"))
    load()
    assert structure_of(model).architecture == "after"


def test_a_layout_that_does_not_fit_says_what_is_missing(add: Add, load: Load) -> None:
    model = tiny_model("bert")
    model.config.model_type = "new-bert"
    add("prune-new", describing("name='wrong', model_types=('new-bert',), stacks=(replace(BERT.stacks[0], ffn=FFN),)"))
    load()
    with pytest.raises(StructureError, match=r"not wrong: there is no mlp\.up in a BertLayer: it has attention"):
        structure_of(model)


def test_an_excluded_unit_leaves_the_owner(load: Load) -> None:
    assert structure_of(tiny_model("bert"), load()).without(["layer.0.*"]).owner == "prune-core"


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_compact_model_loads_by_the_family_that_it_was_compacted_by(
    sparse: bool, add: Add, load: Load, tmp_path: Path
) -> None:
    """What a recipe disables is not disabled where the model is loaded, in the same run or by anybody else."""
    model, masks = _masked(sparse=sparse)
    add("prune-rival", SAME_TYPE)
    compaction = compact(model, masks, plugins=load("prune-rival"))
    save_compact(compaction, tmp_path / "model")
    load()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization_config"]["plugin"] == "prune-core"
    once_more = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    for loaded in (again, once_more):
        assert torch.equal(_logits(loaded), _logits(compaction.model))


@pytest.mark.parametrize("later", ["both installed", "the rival disabled"])
def test_a_compact_model_of_the_rival_loads_by_the_rival_or_by_what_fits(
    later: str, add: Add, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, masks = _masked()
    add("prune-rival", describing("name='rival', model_types=('distilbert', 'bert')"))
    offers = [o for o in load().offers if o.kind == "compactors" or o.distribution == "prune-rival"]
    compaction = compact(model, masks, plugins=Plugins(tuple(offers), ()))
    save_compact(compaction, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["quantization_config"]["plugin"] == "prune-rival"
    monkeypatch.setenv("PRUNE_DISABLE", "prune-rival" if later == "the rival disabled" else "")
    load()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(_logits(again), _logits(compaction.model))


def _masked(*, sparse: bool = False) -> tuple[PreTrainedModel, MaskSet]:
    """A BERT and masks for it, made while nobody but the core describes BERT."""
    model = tiny_model("bert")
    return model, random_masks(model, "block", sparse=True) if sparse else unit_masks(model, lambda unit: (0, 2))


def _logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**tiny_inputs(model)).logits
    return logits
