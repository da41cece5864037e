"""One size for all layers: the masked model's function, in transformers' own classes, with nothing installed."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from prune_core.compaction import compact
from prune_core.errors import MaskError, ModelError, StructureError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.masks import MaskSet
from prune_core.recipe import Recipe
from prune_core.structure import Attention
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import emptied_rows, random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

ATOL = 1e-5
HEADS = {"vit": 2, "dinov2": 2, "llama": 1, "t5": 3, "flan-t5": 3}
"""Heads (of grouped queries: key and value heads) of every layer where 2, or 1 of 2, are needed of each, others in one
layer than in the next: T5's share their position biases, so that a layer has those of both."""
WHOLE = ("bert", "distilbert", "deberta-v2", "albert", "bart", "opt", "phi", "gpt2", "modernbert")
"""Some of the families whose heads cannot be fewer in stock classes."""

PLAIN = """
import json, sys
sys.modules["prune_core"] = None  # an import of it would fail
import torch, transformers
from safetensors.torch import load_file
found = {}
for family, name in json.loads(sys.argv[1]).items():
    model = getattr(transformers, name).from_pretrained(f"{sys.argv[2]}/{family}")
    inputs = load_file(f"{sys.argv[2]}/{family}.safetensors")
    expected = inputs.pop("expected")
    answer = model(**inputs)
    value = next(value for value in answer.values() if isinstance(value, torch.Tensor))
    found[family] = float((value - expected).detach().abs().max())
print(json.dumps(found))
"""


def halves(model, empty=()):
    """Half the heads of every layer, in turn the first and others, and 20 neurons; nothing of layers that are empty."""
    found = {}
    for index, unit in enumerate(structure_of(model).units):
        first = index % 2 if isinstance(unit, Attention) else index
        size = unit.count // 2 if isinstance(unit, Attention) else 20
        found[unit.key] = [] if unit.key.startswith(tuple(empty)) else list(range(first, first + size))
    return found


def uniform(model, kept):
    """The masked model and its uniform compaction."""
    masks = unit_masks(model, lambda unit: kept.get(unit.key))
    masked = copy.deepcopy(model)
    masks.bake(masked)
    return masked, compact(model, masks, "uniform")


def check(one, other):
    """The same outputs, to `ATOL` of their largest; hidden states too where there are as many layers."""
    pairs = zip(everything(one), everything(other), strict=True)
    assert max(float((a - b).abs().max() / a.abs().max().clamp_min(1)) for a, b in pairs) <= ATOL


def first_output(model, inputs):
    with torch.no_grad():
        return next(value for value in model(**inputs).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("family", [*HEADS, *WHOLE])
def test_it_is_the_masked_model_in_the_sizes_of_the_largest_layer(family):
    model = tiny_model(family)
    masked, compaction = uniform(model, halves(model))
    check(compaction.model, masked)
    structure = structure_of(compaction.model)
    assert {unit.count for unit in structure.attention} == {HEADS.get(family, structure_of(model).attention[0].count)}
    assert {unit.size for unit in structure.ffn} == {64 if family == "dinov2" else 20}
    told = [note for note in compaction.notes if " heads: " in note]
    assert bool(told) == (family in WHOLE), "where heads stay, that is said"


def test_the_layers_differ_and_the_largest_one_decides():
    model = tiny_model("vit", layers=4)
    masked, compaction = uniform(model, uneven(model))
    check(compaction.model, masked)
    assert compaction.model.config.intermediate_size == 31
    assert compaction.model.config.num_attention_heads == 4, "one layer needs all of them"


def test_what_it_costs_is_told():
    model = tiny_model("llama", layers=4)
    kept = {unit.key: range(1 + 10 * index) for index, unit in enumerate(structure_of(model).ffn)}
    masks = unit_masks(model, lambda unit: kept.get(unit.key))
    compaction, ragged = compact(model, masks, "uniform"), compact(model, masks)
    assert compaction.ragged == pytest.approx(ragged.density)
    stored = structure_of(compaction.model).size(compaction.model) / structure_of(model).size(model)
    assert compaction.density == pytest.approx(stored)
    assert compaction.density > ragged.density
    assert {unit.key: len(unit.kept) for unit in compaction.units if unit.key in kept} == dict.fromkeys(kept, 31)


def test_zeros_that_dense_would_leave_out_on_disk_are_stored():
    model = tiny_model("llama")
    masks = random_masks(model, "element", sparse=True)
    compaction, ragged = compact(model, masks, "uniform"), compact(model, masks)
    assert compaction.ragged == pytest.approx(ragged.density)
    assert compaction.density == 1
    assert not compaction.masks.sparse


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("biases", [False, True])
def test_a_constant_counts_once(family, biases):
    """A head without values adds a constant, which is folded; where the head must stay even so, it adds nothing."""
    model = tiny_model(family)
    masks = emptied_rows(model, "value", biases=biases)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    check(compact(model, masks, "uniform").model, masked)


def test_half_precision_and_gradients_stay():
    model = tiny_model("llama").to(torch.bfloat16).train()
    compaction = uniform(model, halves(model))[1]
    assert {parameter.dtype for parameter in compaction.model.parameters()} == {torch.bfloat16}
    assert compaction.model.training
    assert all(parameter.requires_grad for parameter in compaction.model.parameters())


def test_plain_transformers_loads_it_where_nothing_of_ours_can_be_imported(tmp_path):
    classes = {}
    for family in ("bert", "vit", "llama", "opt", "t5", "bart", "distilbert"):
        model = tiny_model(family, layers=3)
        masked, compaction = uniform(model, halves(model, ["layer.1.", "encoder.layer.1."]))
        save_compact(compaction, tmp_path / family)
        inputs = tiny_inputs(model)
        inputs.pop("labels")
        save_file({**inputs, "expected": first_output(masked, inputs)}, tmp_path / f"{family}.safetensors")
        classes[family] = type(model).__name__
        assert "quantization_config" not in json.loads((tmp_path / family / "config.json").read_text())
        assert "prune_core" not in (tmp_path / family / "README.md").read_text()
    command = [sys.executable, "-c", PLAIN, json.dumps(classes), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == classes.keys()
    assert max(found.values()) <= ATOL, found


def test_the_verb_writes_what_it_has_verified(tmp_path):
    model = tiny_model("vit")
    masks = unit_masks(model, lambda unit: halves(model)[unit.key])
    masks.bake(model)
    model.save_pretrained(tmp_path / "masked")
    masks.save(tmp_path / "masks.safetensors")
    report = compact_folder(
        tmp_path / "masked", tmp_path / "masks.safetensors", tmp_path / "small", Recipe(compactor="uniform")
    )
    assert report["density"] == pytest.approx(report["density_of_ragged_layers"])
    config = AutoConfig.from_pretrained(tmp_path / "small")
    assert (config.num_attention_heads, config.intermediate_size, config.head_dim) == (2, 20, 8)


class TestDepth:
    """Layers of which nothing is left."""

    @pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "vit", "mbart", "t5", "wav2vec2-stable", "whisper"])
    def test_they_go_where_that_is_exact(self, family):
        model = tiny_model(family, layers=4)
        masked, compaction = uniform(model, halves(model, ["layer.1.", "layer.2.", "encoder.layer.2."]))
        inputs = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
        one, other = first_output(masked, inputs), first_output(compaction.model, inputs)
        assert float((one - other).abs().max() / one.abs().max()) <= ATOL
        units = structure_of(compaction.model).attention
        assert len(units) == (11 if model.config.is_encoder_decoder else 2)
        gone = {unit.key for unit in compaction.units if not unit.kept}
        assert gone == {
            key for key in structure_of(model).keys() if key.startswith(("layer.1.", "layer.2.", "encoder.layer.2."))
        }
        assert "layers without effect are gone: " in compaction.notes[-1]
        assert len(getattr(compaction.model.config, "layer_types", None) or units) == len(units)

    def test_lists_of_the_configuration_follow(self):
        model = tiny_model("gemma2", layers=4)
        kinds = model.config.layer_types
        assert kinds[0] != kinds[1]
        config = uniform(model, halves(model, ["layer.1."]))[1].model.config
        assert config.num_hidden_layers == 3
        assert config.layer_types == [kinds[0], kinds[2], kinds[3]]
        assert config.prune_layers == {"layer": {"kept": [0, 2, 3], "of": 4}}, "a teacher of a fill knows them by it"

    @pytest.mark.parametrize("family", ["bert", "wav2vec2", "hubert"])
    def test_norms_behind_the_sum_keep_a_layer_in_place(self, family):
        model = tiny_model(family, layers=3)
        masked, compaction = uniform(model, halves(model, ["layer.1."]))
        check(compaction.model, masked)
        assert compaction.model.config.num_hidden_layers == 3

    def test_a_constant_that_no_bias_in_front_takes_keeps_the_first_layer(self):
        model = tiny_model("opt", layers=3)
        masked, compaction = uniform(model, halves(model, ["layer.0."]))
        check(compaction.model, masked)
        without = copy.deepcopy(model)
        for unit in structure_of(without).units[:2]:
            output = unit.output if isinstance(unit, Attention) else unit.down
            torch.nn.init.zeros_(without.get_parameter(f"{output}.bias"))
        assert uniform(without, halves(without, ["layer.0."]))[1].model.config.num_hidden_layers == 2

    def test_one_layer_stays_of_an_empty_model(self):
        model = tiny_model("llama", layers=3)
        masked, compaction = uniform(model, {key: [] for key in structure_of(model).keys()})
        inputs = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
        torch.testing.assert_close(first_output(compaction.model, inputs), first_output(masked, inputs))
        assert compaction.model.config.num_hidden_layers == 1
        assert compaction.ragged == 0

    @pytest.mark.parametrize("family", ["llama", "opt", "t5"])
    def test_the_same_tokens_whatever_the_cache(self, family):
        model = tiny_model(family, layers=3)
        masked, compaction = uniform(model, halves(model, ["layer.1.", "decoder.layer.1."]))
        prompt = tiny_inputs(model)["input_ids"][:, :5]
        length = {"min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False}
        expected = masked.generate(prompt, use_cache=False, **length)
        for options in ({}, {"cache_implementation": "static"}):
            assert torch.equal(compaction.model.generate(prompt, **length, **options), expected)

    def test_masks_of_what_remains_have_the_new_names(self):
        model = tiny_model("llama", layers=3)
        rows = random_masks(model, "element")
        masks = MaskSet({**rows, **unit_masks(model, lambda unit: [] if unit.key.startswith("layer.1.") else None)})
        compaction = compact(model, masks, "uniform")
        assert compaction.model.config.num_hidden_layers == 2
        assert any(".layers.1." in name for name in compaction.masks)
        before = copy.deepcopy(compaction.model.state_dict())
        compaction.masks.bake(compaction.model)
        assert all(torch.equal(before[name], value) for name, value in compaction.model.state_dict().items())


class TestRefusals:
    def test_a_family_without_fields(self):
        model = tiny_model("swin", layers=4)
        with pytest.raises(
            StructureError, match=r"swin models cannot have one size for all layers.* use --compactor dense"
        ):
            compact(model, unit_masks(model, lambda unit: [0]), "uniform")

    def test_a_model_that_is_compact_already(self):
        model = tiny_model("bert")
        smaller = compact(model, unit_masks(model, lambda unit: range(1 + unit.key.startswith("layer.1.")))).model
        with pytest.raises(ModelError, match="this model is compact already"):
            compact(smaller, MaskSet({}), "uniform")

    def test_masks_of_another_model(self):
        with pytest.raises(MaskError, match="which the model does not have"):
            compact(tiny_model("bert"), random_masks(tiny_model("vit"), "row"), "uniform")

    def test_auto_never_takes_it(self):
        model = tiny_model("bert")
        assert compact(model, random_masks(model, "head")).ragged is None
