"""Layers that are removed because they are asked to be: the whole model with these layers bypassed."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoBackbone, AutoModelForSequenceClassification

from prune_core.compaction import compact
from prune_core.compaction.layers import origins
from prune_core.errors import ModelError, RecipeError, StructureError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.recipe import DepthSection, Recipe
from prune_core.rewriting.depth import prove, shortened, spread
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import FAMILIES, tiny_config, tiny_inputs, tiny_model

SHARED = ("albert", "swin")
"""Layers that are run through again and again, and stages: no number of layers to set."""


def shorter(model, **depth):
    return shortened(model, structure_of(model), DepthSection(**depth))


def handing_on(model, *paths):
    """A copy in which these modules give back what they get; what they compute beside it stays."""
    whole = copy.deepcopy(model)
    for path in paths:
        layer = whole.get_submodule(path)
        layer.forward = _handing_on(layer.forward)
    return whole


def _handing_on(forward):
    def instead(hidden_states, *args, **kwargs):
        answer = forward(hidden_states, *args, **kwargs)
        return (hidden_states, *answer[1:]) if isinstance(answer, tuple) else hidden_states

    return instead


def first(model):
    inputs = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
    with torch.no_grad():
        return next(value for value in model(**inputs).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in SHARED])
def test_a_removed_layer_hands_on_what_it_gets(family):
    """Whether norms stand before the sum or behind it."""
    model = tiny_model(family, layers=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, shortening = shorter(model, drop=["*layer.1", "*layer.3"])
    gone = [layer.path for layer in shortening.gone]
    assert all(path.endswith((".1", ".3")) for path in gone)
    torch.testing.assert_close(first(small), first(handing_on(model, *gone)), rtol=0, atol=0)
    assert (first(small) - first(model)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(origins(small.config).values()) == {(0, 2, 4)}
    units = {unit.key for unit in structure_of(model).units}
    assert {unit.key for unit in structure_of(small).units} == {
        key for key in units if ".2." not in f".{key}" and ".3." not in f".{key}"
    }


@pytest.mark.parametrize("family", ["bart", "t5", "gemma2", "gpt2", "whisper"])
def test_the_same_tokens_whatever_the_cache(family):
    model = tiny_model(family, layers=4)
    small, shortening = shorter(
        model, drop=["layer.1"] if family in ("gemma2", "gpt2") else ["decoder.layer.1", "encoder.layer.2"]
    )
    whole = handing_on(model, *(layer.path for layer in shortening.gone))
    inputs = tiny_inputs(model)
    prompt = inputs["input_features"] if family == "whisper" else inputs["input_ids"][:, :5]
    length = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
    expected = whole.generate(prompt, use_cache=False, **length)
    for options in ({}, {"cache_implementation": "static"}):
        assert torch.equal(small.generate(prompt, **length, **options), expected)


@pytest.mark.parametrize(
    ("count", "total", "kept"),
    [(6, 12, [0, 2, 4, 7, 9, 11]), (3, 6, [0, 2, 5]), (1, 12, [0]), (12, 12, range(12)), (2, 3, [0, 2])],
)
def test_layers_that_stay_are_spread_evenly(count, total, kept):
    """The lists of transformers' script for DistilBART."""
    assert spread(count, total) == list(kept)


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        ({"drop": ["layer.1"]}, [0, 2, 3]),
        ({"drop": ["encoder.layer.1"]}, [0, 2, 3]),
        ({"drop": ["bert.encoder.layer.1", "layer.0"]}, [2, 3]),
        ({"drop": ["layer.[12]"]}, [0, 3]),
        ({"keep": 2}, [0, 3]),
        ({"keep": 4}, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_layers_are_named_or_counted(depth, kept):
    model = tiny_model("bert", layers=4)
    small, shortening = shorter(model, **depth)
    assert small.config.num_hidden_layers == len(kept)
    assert (small is model) == (not shortening.gone) == (len(kept) == 4)
    weights = model.bert.encoder.layer
    assert all(
        torch.equal(one.output.dense.weight, weights[number].output.dense.weight)
        for one, number in zip(small.bert.encoder.layer, kept, strict=True)
    )


def test_of_several_stacks_each_has_its_own():
    model = tiny_model("bart", layers=4)
    config = shorter(model, keep={"decoder": 2})[0].config
    assert (config.encoder_layers, config.decoder_layers) == (4, 2)
    assert config.prune_layers == {"decoder.layer": {"kept": [0, 3], "of": 4}}


def test_shorter_and_shorter_is_told_of_the_whole():
    once = shorter(tiny_model("vit", layers=6), drop=["layer.0", "layer.3"])[0]
    twice = shorter(once, drop=["layer.1"])[0]
    assert twice.config.prune_layers == {"layer": {"kept": [1, 4, 5], "of": 6}}


def test_the_stages_of_a_backbone_follow(tmp_path):
    """Each is what a layer handed on: that of a removed one is what the layer before it does."""
    model = AutoBackbone.from_config(tiny_config("dinov2", layers=4, out_indices=[1, 2, 4])).eval()
    small, shortening = shorter(model, drop=["layer.1"])
    assert (small.config.out_indices, small.config.out_features) == ([1, 3], ["stage1", "stage3"])
    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    whole = handing_on(model, *(layer.path for layer in shortening.gone))
    pixels = tiny_inputs(model)["pixel_values"]
    with torch.no_grad():
        first, _, last = whole(pixels).feature_maps
        found = again(pixels).feature_maps
    assert torch.equal(found[0], first)
    assert torch.equal(found[1], last)


def test_a_model_of_no_known_family_too():
    from tests.compaction.test_discovery import tiny

    model = tiny("ernie")
    small, shortening = shorter(model, keep=2)
    assert [layer.path for layer in shortening.gone] == ["ernie.encoder.layer.1", "ernie.encoder.layer.2"]
    torch.testing.assert_close(
        first(small), first(handing_on(model, *(layer.path for layer in shortening.gone))), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("family", "depth", "error", "said"),
    [
        (
            "bert",
            {"drop": ["layer.7"]},
            RecipeError,
            r"depth\.drop: 'layer\.7' names no layer that can go; there are layer\.0 to layer\.3",
        ),
        ("bert", {"drop": ["layer.*"]}, RecipeError, r"one layer at least must stay of layer\.0 to layer\.3"),
        ("bert", {"keep": 5}, RecipeError, r"depth\.keep: 5 layers cannot stay of 4"),
        (
            "bart",
            {"keep": 2},
            RecipeError,
            r"depth\.keep: 2 of which stack\? Such as --keep-layers encoder=2,decoder=2",
        ),
        ("bart", {"keep": {"middle": 2}}, RecipeError, r"no stack 'middle'; there are encoder, decoder"),
        ("swin", {"keep": 2}, StructureError, r"swin models cannot lose layers"),
        ("albert", {"keep": 1}, StructureError, r"albert models cannot lose layers"),
        (
            "modernbert",
            {"drop": ["layer.0"]},
            StructureError,
            r"layers\.0\.attn_norm\.weight would be \[32\] .* missing; keep other",
        ),
    ],
)
def test_what_cannot_be_is_refused(family, depth, error, said):
    with pytest.raises(error, match=said):
        shorter(tiny_model(family, layers=4), **depth)


def test_a_compact_model_loses_no_layers():
    model = tiny_model("bert")
    smaller = compact(model, unit_masks(model, lambda unit: range(1 + unit.key.startswith("layer.1.")))).model
    with pytest.raises(ModelError, match="this model is compact already"):
        shorter(smaller, keep=1)


@pytest.mark.parametrize("depth", [{"drop": ["layer.0"], "keep": 1}, {"keep": 0}, {"keep": {"encoder": 0}}])
def test_a_section_that_says_two_things_or_nothing(depth):
    with pytest.raises(RecipeError, match="depth"):
        Recipe.parse({"depth": depth})


def test_a_layer_that_does_more_by_its_place_is_found_out():
    model = tiny_model("gpt2", layers=3, scale_attn_by_inverse_layer_idx=True)
    small, shortening = shorter(model, drop=["layer.1"])
    with pytest.raises(StructureError, match=r"without layer\.1 is another function .* layers go by their place"):
        prove(model, small, shortening.gone, {"input_ids": tiny_inputs(model)["input_ids"]})


class TestFolder:
    """`prune compact`."""

    @pytest.mark.parametrize("compactor", ["auto", "uniform"])
    def test_layers_go_and_then_what_the_masks_say(self, compactor, tmp_path):
        model = tiny_model("bert", layers=3)
        masks = unit_masks(model, lambda unit: range(2) if "attention" in unit.key else range(20))
        masks.bake(model)
        model.save_pretrained(tmp_path / "masked")
        masks.save(tmp_path / "masks.safetensors", structure_of(model).sizes())
        recipe = Recipe(compactor=compactor, depth=DepthSection(drop=("layer.1",)))
        report = compact_folder(tmp_path / "masked", tmp_path / "masks.safetensors", tmp_path / "small", recipe)
        small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").eval()
        torch.testing.assert_close(first(small), first(handing_on(model, "bert.encoder.layer.1")), rtol=0, atol=1e-5)
        assert small.config.num_hidden_layers == 2
        stored = structure_of(small).size(small) / structure_of(model).size(model)
        assert report["density"] == pytest.approx(stored)
        assert report["notes"][-1] == "layers were removed: layer.1"

    def test_nothing_else_need_be_pruned_and_plain_transformers_loads_it(self, tmp_path):
        model = tiny_model("bert", layers=4)
        model.save_pretrained(tmp_path / "dense")
        report = compact_folder(tmp_path / "dense", None, tmp_path / "small", Recipe(depth=DepthSection(keep=2)))
        assert report["density"] == pytest.approx(0.5)
        assert report["verification"]["masked_vs_compact"] == 0
        code = (
            "import sys; sys.modules['prune_core'] = None\n"
            "from transformers import AutoBackbone, AutoModelForSequenceClassification as Auto\n"
            f"print(len(Auto.from_pretrained({str(tmp_path / 'small')!r}).bert.encoder.layer))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "2", done.stderr
        config = json.loads((tmp_path / "small" / "config.json").read_text())
        assert "quantization_config" not in config
        assert config["prune_layers"] == {"layer": {"kept": [0, 3], "of": 4}}

    def test_a_wrong_record_in_the_configuration_is_told(self, tmp_path):
        model = tiny_model("bert", layers=3, prune_layers={"layer": [0, 1]})
        model.save_pretrained(tmp_path)
        with pytest.raises(
            ModelError, match=r"config\.json: prune_layers: such as .* was expected, found \{'layer': \[0"
        ):
            shorter(load_saved(str(tmp_path)), keep=2)
