"""Models of no known family: their units are found by names and shapes, or refused with what was looked for."""

import copy
import json
import re

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from prune_core.compaction import compact
from prune_core.errors import ModelError, PluginError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.measure import dummy_inputs
from prune_core.recipe import Recipe
from prune_core.runs.configuring import plugins_of
from prune_core.testing.loop import everything
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.verification.trial import prove

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 64}
TEXT = SIZES | {"vocab_size": 64, "max_position_embeddings": 80, "pad_token_id": 0, "eos_token_id": 2}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1}
IMAGE = SIZES | {"image_size": 8, "patch_size": 4, "num_channels": 3}
BOTH = {f"{part}_{name}": 4 for part in ("encoder", "decoder") for name in ("attention_heads", "layers")}
TRANSLATOR = TEXT | BOTH | {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
for name in SIZES:
    del TRANSLATOR[name]
FIELDS = {
    "SequenceClassification": TEXT,
    "CausalLM": GROUPED,
    "ImageClassification": IMAGE,
    "Seq2SeqLM": TRANSLATOR,
}
HEADS = {
    "SequenceClassification": "ernie data2vec-text roformer megatron-bert roberta-prelayernorm xlm-roberta-xl layoutlm "
    "rembert splinter mra yoso canine markuplm bert-generation ibert lilt luke esm convbert fnet "
    "nystromformer big_bird",
    "CausalLM": "olmo granite stablelm cohere cohere2 starcoder2 gemma nemotron seed_oss smollm3 helium arcee apertus "
    "ministral ernie4_5 biogpt olmo2 persimmon glm mixtral gpt_oss bitnet lfm2 xglm",
    "ImageClassification": "beit data2vec-vision vit_msn dinov2_with_registers ijepa dinov3_vit siglip_vision_model",
    "Seq2SeqLM": "m2m_100 blenderbot blenderbot-small plbart mt5 mvp",
}
HEAD = {family: head for head, families in HEADS.items() for family in families.split()}

REFUSED = {
    "ibert": r"found no list of layers with linears in it",
    "fnet": r"found no list of layers with linears in it",
    "lilt": r"lilt\.encoder\.layer\.0 with attention\.self\.query \[32, 32\].*layout_query.* one output was looked for",
    "luke": r"attention\.self: one output was looked for .* there are attention\.self\.w2e_query",
    "convbert": r"one output was looked for .* there are attention\.self\.conv_kernel_layer",
    "esm": r"no activation function was found beside intermediate\.dense or around it",
    "nystromformer": r"conv\.weight \[4, 1, 65, 1\] seems to belong to single heads or neurons",
    "olmo2": r"q_norm\.weight \[32\] seems to belong to single heads",
    "gpt_oss": r"sinks \[4\] seems to belong to single heads",
    "bitnet": r"attn_sub_norm\.weight \[32\] seems to belong to single heads",
    "persimmon": r"self_attn\.query_key_value \[96, 32\].* no query, key and value by their names",
    "glm": r"mlp\.gate_up_proj and mlp\.down_proj are no up and down of a feed-forward part by their shapes",
    "mixtral": r"up, down and at most a gate were looked for beside the attention, there is none",
    "lfm2": r"model\.layers\.0 with self_attn\.q_proj .* no activation function was found",
    "mt5": r"relative_attention_bias\.weight \[32, 4\] seems to belong to single heads",
}
"""Model types that cannot be read, and why."""
MISREAD = ("big_bird", "xglm", "mvp", "yoso", "mra")
"""Those that are read, and whose own code goes by another count of heads than their modules', or gives values weights
that do not sum to 1: the trial finds out."""
READ = [family for family in HEAD if family not in REFUSED and family not in MISREAD]

LUKE = {
    "layers": "encoder.layer",
    "attention": {
        "attention": {
            "core": "attention.self",
            **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
            "output": "attention.output.dense",
            "head_size": 8,
        }
    },
    "ffn": {"up": "intermediate.dense", "down": "output.dense", "activation": "intermediate.intermediate_act_fn"},
}


def tiny(family, **changes):
    """A small random model of a type that no family of ours covers."""
    off = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0)
    fields = off | {"num_labels": 3} | FIELDS[HEAD[family]] | changes
    if family == "mt5":
        fields |= {"num_heads": 4, "d_kv": 8, "d_ff": 64}
    config = AutoConfig.for_model(family, **fields)
    auto = getattr(transformers, f"AutoModelFor{HEAD[family]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (auto if type(config) in auto._model_mapping else AutoModel).from_config(config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def difference(one, other):
    pairs = zip(everything(one), everything(other), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1)) for a, b in pairs)


def compacted(model, plugins=None, kept=None):
    kept = uneven(model) if kept is None else kept
    masks = unit_masks(model, lambda unit: kept.get(unit.key))
    masked = copy.deepcopy(model)
    masks.bake(masked)
    return compact(model, masks, plugins=plugins), masked


def described(*stacks):
    return plugins_of(Recipe.parse({"architecture": {"stacks": list(stacks)}}))


@pytest.mark.parametrize("family", READ)
def test_what_is_found_is_compacted_and_reloads(family, tmp_path):
    model = tiny(family)
    structure = structure_of(model)
    assert structure.layout is not None
    assert len(structure.attention) >= len(structure.ffn) >= 4
    compaction, masked = compacted(model)
    assert difference(masked, model) > 0.01
    assert difference(compaction.model, masked) <= 1e-5
    assert compaction.density < 0.6
    save_compact(compaction, tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert difference(again, compaction.model) == 0
    assert structure_of(again).sizes() == structure_of(compaction.model).sizes()
    again.save_pretrained(tmp_path / "again")
    assert difference(type(model).from_pretrained(tmp_path / "again"), again) == 0


@pytest.mark.parametrize("family", ["ernie", "granite", "m2m_100"])
def test_the_bare_model_loads_from_the_same_folder(family, tmp_path):
    compaction, _ = compacted(tiny(family))
    save_compact(compaction, tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert structure_of(bare).sizes() == structure_of(compaction.model).sizes()


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_unclear_is_refused_with_what_is_there_and_what_was_looked_for(family):
    with pytest.raises(StructureError, match=REFUSED[family]) as error:
        structure_of(tiny(family))
    message = str(error.value)
    assert re.search(r"\(model type '\w+'\) is of no known family .* looked for a list of equal layers", message)
    assert "architecture.stacks" in message
    assert "prune_architectures" in message
    assert "\n" not in message


@pytest.mark.parametrize("family", MISREAD)
def test_what_is_read_wrongly_is_found_out_by_the_trial(family):
    model = tiny(family)
    with pytest.raises(StructureError, match=r"cannot be compacted by the layout that was found .* on a trial"):
        prove(model, structure_of(model), dummy_inputs(model, 2, 8))


@pytest.mark.parametrize("family", ["ernie", "m2m_100", "beit"])
def test_the_trial_passes_and_leaves_the_model_alone(family):
    model = tiny(family)
    before = copy.deepcopy(model.state_dict())
    prove(model, structure_of(model), dummy_inputs(model, 2, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_that_differ_are_refused():
    model = tiny("ernie")
    model.ernie.encoder.layer[2].attention.self.to_q = model.ernie.encoder.layer[2].attention.self.query
    del model.ernie.encoder.layer[2].attention.self.query
    with pytest.raises(
        StructureError, match=r"ernie\.encoder\.layer\.0 with .* and unlike it ernie\.encoder\.layer\.2"
    ):
        structure_of(model)


def test_a_norm_over_all_heads_is_refused_and_the_same_family_without_it_is_not():
    with pytest.raises(StructureError, match=r"q_norm\.weight \[4, 8\] seems to belong to single heads"):
        structure_of(tiny("cohere", use_qk_norm=True))


def test_a_recipe_names_the_modules(tmp_path):
    model, plugins = tiny("luke"), described(LUKE)
    structure = structure_of(model, plugins)
    kept = {unit.key: [] if "3" in unit.key else [0, 2] for unit in structure.units}
    prove(model, structure, dummy_inputs(model, 2, 8))
    model.config.architectures = [type(model).__name__]
    masks = _masks(structure, kept)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks, plugins=plugins)
    assert difference(compaction.model, masked) <= 1e-5
    save_compact(compaction, tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert difference(again, compaction.model) == 0
    assert {unit.key: unit.count for unit in structure_of(again).units} == {key: len(k) for key, k in kept.items()}


def test_a_wrong_description_says_what_is_missing():
    wrong = LUKE | {"ffn": LUKE["ffn"] | {"up": "mlp.up"}}
    with pytest.raises(StructureError, match=r"not luke: there is no mlp\.up in a LukeLayer: it has attention"):
        structure_of(tiny("luke"), described(wrong))
    with pytest.raises(StructureError, match=r"not luke: there is no list of layers at encoder\.blocks$"):
        structure_of(tiny("luke"), described(LUKE | {"layers": "encoder.blocks"}))


@pytest.mark.parametrize(
    ("part", "field", "said"),
    [
        (
            "ffn",
            {"down": "attention.output.dense"},
            r"intermediate\.dense gives 64 features and .* reads 32: .* neurons",
        ),
        ("attention", {"output": "output.dense"}, r"query gives 32 features and .* reads 64: .* heads of 8 features"),
        ("attention", {"head_size": 7}, r"reads 32: both should be the same number of heads of 7 features"),
    ],
)
def test_a_description_whose_sizes_do_not_fit_is_refused(part, field, said):
    attention = LUKE["attention"]["attention"]
    changed = {"attention": attention | field} if part == "attention" else LUKE["ffn"] | field
    with pytest.raises(StructureError, match=said):
        structure_of(tiny("luke"), described(LUKE | {part: changed}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adapter": "os:system"}, r"attention\.attention\.adapter: unknown field"),
        ({"core": "attention.__class__"}, r"attention\.attention\.core: names of modules"),
        ({"head_size": 0}, r"attention\.attention\.head_size"),
    ],
)
def test_what_a_folder_says_of_its_layout_is_data_and_checked(change, said, tmp_path):
    compaction, _ = compacted(tiny("ernie"))
    save_compact(compaction, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["architecture"]["stacks"][0]["attention"]["attention"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=rf"config\.json: quantization_config\.architecture\.stacks\.0\.{said}"
    ) as error:
        type(compaction.model).from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_family_of_a_plugin_that_is_gone_is_not_guessed(tmp_path):
    compaction, _ = compacted(tiny("ernie"))
    save_compact(compaction, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] |= {"architecture": None, "plugin": "prune-ernie"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PluginError, match=r"described by the plugin prune-ernie.*model type 'ernie' here: install it"):
        type(compaction.model).from_pretrained(tmp_path)


def _masks(structure, kept):
    """Masks of whole heads and neurons, for a structure that only a recipe knows."""
    from prune_core.masks import Mask, MaskSet

    masks = {}
    for unit in structure.units:
        values = torch.tensor([index in kept[unit.key] for index in range(unit.count)])
        for name in unit.linears():
            whole = unit.slice_of(name)
            shape = (unit.count * whole.size, 32) if whole.axis == "rows" else (32, unit.count * whole.size)
            masks[f"{name}.weight"] = Mask(whole, values, shape)
    return MaskSet(masks)
