"""A compact folder is an ordinary one: plain from_pretrained, any head, dtype and device map, bit for bit."""

import copy
import json

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertLMHeadModel,
    ViTImageProcessor,
    pipeline,
)

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import FAMILIES, auto_class, tiny_inputs, tiny_model


@pytest.fixture(params=["bert", "distilbert", "vit"])
def family(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["dense", "sparse"])
def sparse(request):
    return request.param


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_head(family, sparse, compact_folder, same):
    written = compact_folder(family, sparse=sparse)
    model, report = auto_class(family).from_pretrained(written.folder, output_loading_info=True)
    assert not any(report.values())
    assert type(model) is type(written.model)
    assert same(model, written.model)


def test_it_is_an_ordinary_model_afterwards(family, sparse, compact_folder):
    model = auto_class(family).from_pretrained(compact_folder(family, sparse=sparse).folder)
    marks = ("is_quantized", "quantization_method", "hf_quantizer")
    assert not [name for name in marks if getattr(model, name, None)]
    assert not any(
        getattr(module.config, "_is_quantized", False) for module in model.modules() if hasattr(module, "config")
    )
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.half().dtype == torch.float16  # a quantized model would refuse
    assert copy.deepcopy(model).float().dtype == torch.float32


def test_the_bare_trunk(family, sparse, compact_folder, answers):
    written = compact_folder(family, sparse=sparse)
    trunk = AutoModel.from_pretrained(written.folder)
    mine = getattr(written.model, written.model.base_model_prefix)
    assert torch.equal(answers(trunk)["last_hidden_state"], answers(mine)["last_hidden_state"])


@pytest.mark.parametrize(
    "other",
    [AutoModelForTokenClassification, AutoModelForQuestionAnswering, AutoModelForMaskedLM, AutoModelForMultipleChoice],
)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_other_heads(family, other, sparse, compact_folder, answers):
    written = compact_folder(family, sparse=sparse)
    model = other.from_pretrained(written.folder, num_labels=2, ignore_mismatched_sizes=True)
    trunk = getattr(model, model.base_model_prefix)
    mine = getattr(written.model, written.model.base_model_prefix)
    assert torch.equal(answers(trunk)["last_hidden_state"], answers(mine)["last_hidden_state"])


FUSED_HEADS = {
    "gpt2": (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering),
    "gpt_neox": (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering),
    "phi3": (AutoModelForSequenceClassification, AutoModelForTokenClassification),
    "modernbert": (
        AutoModelForMaskedLM,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    ),
    "deberta": (AutoModelForMaskedLM, AutoModelForTokenClassification, AutoModelForQuestionAnswering),
}


@pytest.mark.parametrize(("family", "other"), [(name, head) for name, heads in FUSED_HEADS.items() for head in heads])
def test_other_heads_of_fused_families(family, other, sparse, compact_folder, same):
    written = compact_folder(family, sparse=sparse)
    model = other.from_pretrained(written.folder, num_labels=2, ignore_mismatched_sizes=True)
    trunk, mine = (getattr(one, one.base_model_prefix) for one in (model, written.model))
    assert same(trunk, mine)


def test_a_new_head_of_another_size(compact_folder, answers):
    written = compact_folder("bert")
    model = AutoModelForSequenceClassification.from_pretrained(
        written.folder, num_labels=7, ignore_mismatched_sizes=True
    )
    assert answers(model)["logits"].shape == (4, 7)
    assert torch.equal(answers(model.bert)["last_hidden_state"], answers(written.model.bert)["last_hidden_state"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(family, dtype, sparse, compact_folder, same):
    written = compact_folder(family, sparse=sparse)
    model = auto_class(family).from_pretrained(written.folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert same(model, copy.deepcopy(written.model).to(dtype))


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_model_compacted_in_bfloat16_stays_so(family, sparse, tmp_path, same):
    model = tiny_model(family).bfloat16()
    compaction = compact(model, unit_masks(model, lambda unit: [1, 2]))
    save_compact(compaction, tmp_path / "model")
    again = auto_class(family).from_pretrained(tmp_path / "model")
    assert again.dtype == torch.bfloat16
    assert same(again, compaction.model)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
@pytest.mark.parametrize("family", ["bert", "vit"])
def test_device_maps(family, device_map, sparse, compact_folder, same):
    written = compact_folder(family, sparse=sparse)
    model = auto_class(family).from_pretrained(written.folder, device_map=device_map)
    assert same(model.cpu(), written.model)


def test_saved_again(family, sparse, compact_folder, same, tmp_path):
    written = compact_folder(family, sparse=sparse)
    model = auto_class(family).from_pretrained(written.folder)
    model.save_pretrained(tmp_path / "again")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (written.folder, tmp_path / "again")
    )
    assert after == before
    assert same(auto_class(family).from_pretrained(tmp_path / "again"), written.model)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_saved_again_in_shards(family, sparse, compact_folder, same, tmp_path):
    written = compact_folder(family, sparse=sparse)
    auto_class(family).from_pretrained(written.folder).save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    assert same(auto_class(family).from_pretrained(tmp_path), written.model)
    assert same(auto_class(family).from_pretrained(tmp_path, device_map="auto").cpu(), written.model)


def test_another_head_saved_again(sparse, compact_folder, answers, tmp_path):
    """Trunk, then token head, then trunk: the sizes travel through every folder."""
    written = compact_folder("bert", sparse=sparse)
    AutoModel.from_pretrained(written.folder).save_pretrained(tmp_path / "trunk")
    AutoModelForTokenClassification.from_pretrained(tmp_path / "trunk").save_pretrained(tmp_path / "tokens")
    again = AutoModel.from_pretrained(tmp_path / "tokens")
    assert torch.equal(answers(again)["last_hidden_state"], answers(written.model.bert)["last_hidden_state"])


def test_the_model_in_memory_saves_itself_too(family, sparse, compact_folder, same, tmp_path):
    written = compact_folder(family, sparse=sparse)
    written.model.save_pretrained(tmp_path)
    assert same(auto_class(family).from_pretrained(tmp_path), written.model)


def test_the_config_says_which_heads_of_the_dense_model_stayed(compact_folder):
    units = AutoConfig.from_pretrained(compact_folder("bert").folder).quantization_config["units"]
    assert units["layer.0.attention"] == {"kept": [0, 2], "of": 4}
    assert units["layer.1.ffn"] == {"kept": 31, "of": 64}
    assert units["layer.2.ffn"] == {"kept": 0, "of": 64}


def test_a_step_of_training_with_gradient_checkpointing(family, sparse, compact_folder):
    model = auto_class(family).from_pretrained(compact_folder(family, sparse=sparse).folder).train()
    model.gradient_checkpointing_enable()
    model(**tiny_inputs(model)).loss.backward()
    prunable = [f"{name}.weight" for name in structure_of(model).linears()]
    assert prunable
    assert all(model.get_parameter(name).grad is not None for name in prunable)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations(family, attention, compact_folder, answers):
    written = compact_folder(family)
    model = auto_class(family).from_pretrained(written.folder, attn_implementation=attention)
    torch.testing.assert_close(answers(model)["logits"], answers(written.model)["logits"], atol=1e-5, rtol=0)


def test_attention_maps_of_every_layer_that_has_heads(family, tmp_path, answers):
    model = tiny_model(family, layers=3)
    masks = unit_masks(model, lambda unit: {"layer.0.attention": [0, 1, 3], "layer.1.attention": [2]}.get(unit.key))
    save_compact(compact(model, masks), tmp_path / "model")
    again = auto_class(family).from_pretrained(tmp_path / "model", attn_implementation="eager")
    assert [layer.shape[1] for layer in answers(again, output_attentions=True)["attentions"]] == [3, 1, 4]


def test_text_pipeline(compact_folder, sparse):
    written = compact_folder("bert", sparse=sparse)
    classify = pipeline("text-classification", model=str(written.folder), device="cpu")
    text = "a very longer film"
    found = classify(text, top_k=None)
    tokens = AutoTokenizer.from_pretrained(written.folder)(text, return_tensors="pt")
    assert tokens["input_ids"].tolist() == [[2, 8, 10, 11, 12, 13, 7, 3]]
    with torch.no_grad():
        expected = written.model.eval()(**tokens).logits.softmax(-1)[0]
    names = written.model.config.id2label
    assert {names[i]: pytest.approx(float(p), abs=1e-6) for i, p in enumerate(expected)} == {
        one["label"]: one["score"] for one in found
    }


def test_image_pipeline(tmp_path):
    model = tiny_model("vit", num_channels=3)
    compaction = compact(model, unit_masks(model, lambda unit: [0, 2]))
    save_compact(compaction, tmp_path, ViTImageProcessor(do_resize=False, size={"height": 8, "width": 8}))
    picture = Image.effect_noise((8, 8), 80).convert("RGB")
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    found = {one["label"]: one["score"] for one in classify(picture, top_k=3)}
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = compaction.model.eval()(pixel_values=pixels).logits.softmax(-1)[0]
    names = model.config.id2label
    assert found == {names[i]: pytest.approx(float(p), abs=1e-6) for i, p in enumerate(expected)}


def test_a_generating_model_keeps_its_generation_config(tmp_path):
    config = BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, is_decoder=True
    )
    model = BertLMHeadModel(config).eval()
    model.generation_config.max_new_tokens = 5
    masks = unit_masks(model, lambda unit: [0, 3])
    save_compact(compact(model, masks), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["max_new_tokens"] == 5
    again = BertLMHeadModel.from_pretrained(tmp_path / "model").eval()
    masks.bake(model)
    prompt = torch.tensor([[2, 9, 17]])
    assert again.generate(prompt, do_sample=False).tolist() == model.generate(prompt, do_sample=False).tolist()


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_nothing_but_safetensors_and_text_is_in_the_folder(family, sparse, compact_folder):
    names = {path.name for path in compact_folder(family, sparse=sparse).folder.rglob("*")}
    assert {name.rpartition(".")[2] for name in names} <= {"safetensors", "json", "txt", "md"}
    assert {"model.safetensors", "config.json", "README.md"} <= names
    assert ("preprocessor_config.json" if family == "vit" else "tokenizer.json") in names


def test_the_card_says_what_to_import_and_what_was_kept(compact_folder):
    card = (compact_folder("bert").folder / "README.md").read_text()
    assert "import prune_core" in card
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert "| layer.2.attention | 1 | 4 |" in card


def test_a_dense_model_is_none_of_our_business(tmp_path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert getattr(again.config, "quantization_config", None) is None
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


HEADS = {
    "bart": ("SequenceClassification", "QuestionAnswering", ""),
    "mbart": ("SequenceClassification", "QuestionAnswering", ""),
    "opt": ("SequenceClassification", "QuestionAnswering", ""),
    "qwen2": ("SequenceClassification", "TokenClassification", ""),
    "gemma3_text": ("SequenceClassification", ""),
}


@pytest.mark.parametrize(("family", "head"), [(family, head) for family in HEADS for head in HEADS[family]])
def test_heads_of_generating_families(family, head, compact_folder, same):
    """The trunk is that of the model that generates."""
    written = compact_folder(family)
    model = auto_class(family, head).from_pretrained(written.folder)
    trunk, mine = (getattr(one, one.base_model_prefix, one) for one in (model, written.model))
    assert same(trunk, mine)


@pytest.mark.parametrize("family", ["bart", "mbart", "pegasus", "marian"])
def test_a_decoder_without_its_encoder(family, sparse, compact_folder, tmp_path):
    """What the folder says of the encoder is no fault where a model has only the decoder; it stays in the config."""
    written = compact_folder(family, sparse=sparse)
    model = AutoModelForCausalLM.from_pretrained(written.folder)
    assert structure_of(model).absent == ("encoder.layer.",)
    model.save_pretrained(tmp_path / "decoder")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder")
    texts = torch.randn(2, 3, 32)  # transformers does not find the decoder's embeddings among those that were shared
    with torch.no_grad():
        one, *others = (m.eval().get_decoder()(inputs_embeds=texts)[0] for m in (written.model, model, again))
    for other in others:
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
