"""Measurement: interleaving, statistics, FLOPs by hand, and the same settings for both sides."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTModel,
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    CanineConfig,
    CanineModel,
    EncoderDecoderModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2Model,
    XLNetConfig,
)

from prune_core import measure
from prune_core.errors import ModelError, RecipeError
from prune_core.folders.pretrained import POSITIONS_BEHIND_PADDING, usable_length
from prune_core.recipe import MeasureSection
from prune_core.testing.tiny import tiny_model

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert(neurons: int = 64, kind: type = BertForSequenceClassification):
    return kind(BertConfig(vocab_size=50, max_position_embeddings=32, intermediate_size=neurons, **SIZES))


def vit():
    return ViTForImageClassification(
        ViTConfig(image_size=8, patch_size=2, num_channels=1, intermediate_size=32, **SIZES)
    )


SECTION = MeasureSection(batch_size=4, length=8, rounds=3)


def test_calls_are_interleaved_in_alternating_order_after_a_warm_up():
    order = []
    seconds = measure.time_calls({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=4)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4}
    assert len(order) > 8
    assert "".join(order).endswith("baabbaab")


def test_a_call_that_takes_longer_is_measured_longer():
    seconds = measure.time_calls({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, rounds=5)
    ratio = measure.paired_ratio(seconds["long"], seconds["short"])
    assert 3 < ratio.low <= ratio.value <= ratio.high < 12


def test_the_ratio_is_paired():
    slow_half = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0]
    assert measure.paired_ratio([2 * x for x in slow_half], slow_half) == measure.Ratio(2.0, 2.0, 2.0, enough=False)


def test_timing_statistics():
    timing = measure.Timing.of([0.1, 0.2, 0.3, 0.4, 0.5], produced=6)
    assert (timing.p50, timing.throughput) == pytest.approx((0.3, 20))
    assert (timing.p90, timing.p99) == pytest.approx((0.46, 0.496))


def test_flops_of_bert_by_hand():
    model, batch, length, hidden, neurons = bert(), 4, 8, 16, 64
    tokens = batch * length
    layer = 2 * tokens * (4 * hidden * hidden + 2 * hidden * neurons) + 2 * 2 * batch * length * length * hidden
    head = 2 * batch * (hidden * hidden + hidden * 2)
    inputs = measure.dummy_inputs(model, batch, length)
    assert measure.flops_of(lambda: model(**inputs)) == 2 * layer + head


def test_flops_of_vit_by_hand():
    model, batch, hidden, neurons = vit(), 3, 16, 32
    patches = 16
    tokens, embedding = patches + 1, 2 * batch * patches * 4 * hidden
    layer = 2 * batch * tokens * (4 * hidden * hidden + 2 * hidden * neurons) + 4 * batch * tokens * tokens * hidden
    head = 2 * batch * hidden * 2
    inputs = measure.dummy_inputs(model, batch, 1)
    assert measure.flops_of(lambda: model(**inputs)) == embedding + 2 * layer + head


def test_comparison_of_two_models():
    model, baseline = bert(neurons=8).train(), bert()
    found = measure.compare(model, baseline, SECTION)
    assert found.flop_ratio == found.baseline.flops / found.model.flops > 1
    assert found.baseline.parameters - found.model.parameters == 2 * 56 * (16 + 16 + 1)
    assert found.model.weight_bytes >= 4 * found.model.parameters
    assert found.speedup_low <= found.speedup <= found.speedup_high
    assert found.machine.threads == torch.get_num_threads()
    assert found.machine.blas in torch.__config__.show()
    assert found.machine.wait_policy == os.environ["OMP_WAIT_POLICY"]
    assert found.machine.driver is found.machine.capability is None
    assert model.training
    assert json.loads(json.dumps(found.to_dict()))["settings"] == SECTION.model_dump()


def test_another_dtype_is_measured_on_copies():
    model, baseline = bert(), bert()
    found = measure.compare(model, baseline, SECTION.model_copy(update={"dtype": "bfloat16"}))
    assert found.model.weight_bytes < 4 * found.model.parameters
    assert model.dtype == torch.float32


def test_both_sides_get_the_same_batch():
    one, other = (measure.dummy_inputs(bert(), 4, 8) for _ in range(2))
    assert one.keys() == {"input_ids", "attention_mask"}
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert one["input_ids"].shape == (4, 8)
    assert one["input_ids"].max() < 50
    assert one["attention_mask"].all()
    assert measure.dummy_inputs(vit(), 4, 8)["pixel_values"].shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("family", "head"),
    [("bart", "Seq2SeqLM"), ("bart", "SequenceClassification"), ("opt", "CausalLM"), ("llama", "CausalLM")],
)
def test_models_with_decoders_are_measured(family: str, head: str):
    model = tiny_model(family, head=head)
    inputs = measure.dummy_inputs(model, 3, 8)
    assert ("decoder_input_ids" in inputs) == (family == "bart")
    assert measure.compare(model, tiny_model(family, head=head, layers=3), SECTION).flop_ratio > 1


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "whisper"])
def test_models_that_listen_are_measured(family: str):
    model = tiny_model(family)
    assert measure.compare(model, tiny_model(family, layers=3), SECTION).flop_ratio > 1


def test_sounds_are_as_long_as_the_transformer_sees_them():
    sizes = {"conv_dim": [8, 8, 8], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2], "num_feat_extract_layers": 3}
    groups = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    model = Wav2Vec2Model(Wav2Vec2Config(intermediate_size=16, **sizes, **groups, **SIZES)).eval()
    samples = measure.dummy_inputs(model, 3, 7)["input_values"]
    assert model(samples).last_hidden_state.shape == (3, 7, 16)
    assert model(samples[:, :-1]).last_hidden_state.shape == (3, 6, 16)


def test_whisper_takes_spectra_and_ids_for_its_decoder():
    model = tiny_model("whisper")
    inputs = measure.dummy_inputs(model, 3, 8)
    assert inputs["input_features"].shape == (3, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    assert inputs["decoder_input_ids"].shape == (3, 8)
    longest = model.config.max_target_positions
    with pytest.raises(RecipeError, match=f"{longest + 1} tokens were asked for, .* takes {longest} at most"):
        measure.dummy_inputs(model, 1, longest + 1)


def test_folders_are_loaded_as_the_class_that_saved_them(tmp_path: Path):
    bert(8, BertForMaskedLM).save_pretrained(tmp_path / "small")
    bert(64, BertForMaskedLM).save_pretrained(tmp_path / "large")
    found = measure.compare_folders(str(tmp_path / "small"), str(tmp_path / "large"), SECTION)
    assert found.model.name == str(tmp_path / "small")
    assert found.model.file_bytes == (tmp_path / "small/model.safetensors").stat().st_size
    head = 2 * 4 * 8 * (16 * 50 + 16 * 16)
    assert found.model.flops > head
    assert found.baseline.file_bytes > found.model.file_bytes


def test_the_size_of_a_folder_is_that_of_the_weights_that_are_loaded(tmp_path: Path):
    """One copy of the weights, without what a Trainer leaves beside them."""
    for name, size in (("training_args.bin", 7), ("optimizer.bin", 900), ("pytorch_model-00001-of-00002.bin", 30)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(bytes(12))
    assert measure.folder_size(tmp_path) == 42
    (tmp_path / "model.safetensors").write_bytes(bytes(41))
    assert measure.folder_size(tmp_path) == 41


def test_settings_that_do_not_fit():
    with pytest.raises(RecipeError, match=r"^33 tokens were asked for, .* takes 32 at most: give 32 or less$"):
        measure.compare(bert(), bert(), SECTION.model_copy(update={"length": 33}))
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="no CUDA device"):
            measure.compare(bert(), bert(), SECTION, device="cuda")


def test_the_length_that_roberta_takes_is_shorter_than_its_positions():
    """Its positions start behind the padding token: 512 of 514 at the usual size."""
    sizes = {"vocab_size": 50, "max_position_embeddings": 34, "intermediate_size": 16}
    model = RobertaForSequenceClassification(RobertaConfig(**sizes, **SIZES))
    found = measure.compare(model, model, SECTION.model_copy(update={"length": 32}))
    assert found.settings["length"] == 32
    with pytest.raises(RecipeError, match=r"^33 tokens were asked for, .* takes 32 at most: give 32 or less$"):
        measure.compare(model, model, SECTION.model_copy(update={"length": 33}))


NEEDED = {
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 8},
    "lilt": {"hidden_size": 24, "max_2d_position_embeddings": 32},
    "xmod": {"default_language": "en_XX"},
}
"""What some families must be told at tiny sizes."""


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", *sorted(POSITIONS_BEHIND_PADDING)])
def test_the_usable_length_is_the_longest_that_a_model_takes(kind: str):
    sizes = {"vocab_size": 50, "max_position_embeddings": 22, "pad_token_id": 1, "intermediate_size": 16}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **(SIZES | NEEDED.get(kind, {})))).eval()
    longest = usable_length(model.config)
    assert longest == (20 if kind in POSITIONS_BEHIND_PADDING else 22)
    ids = torch.full((1, longest + 1), 7)
    model(ids[:, :longest])
    with pytest.raises((IndexError, RuntimeError)):
        model(ids)


def test_a_classifier_without_padding_takes_one_text_at_a_time():
    model = tiny_model("gpt2", head="SequenceClassification", pad_token_id=None)
    measure.bench({"dense": model, "small": model}, measure.Grid(batch_sizes=(1,), lengths=(4,), rounds=3), "cpu")
    said = r"^2 texts in a batch were asked for, GPT2For.* takes one without a pad_token_id: .* config.json; where"
    with pytest.raises(RecipeError, match=said):
        measure.bench({"dense": model, "small": model}, measure.Grid(batch_sizes=(2,), lengths=(4,), rounds=3), "cpu")


def test_no_more_tokens_are_measured_than_a_model_takes():
    for model, longest in ((bert(), 32), (tiny_model("gemma3"), 64)):
        for length, cut in ((500, longest), (8, 8)):
            assert measure.fitting(MeasureSection(length=length), model).length == cut
    assert measure.fitting(MeasureSection(length=500), vit()).length == 500


def test_models_without_a_limit():
    assert usable_length(XLNetConfig()) is None  # it says -1
    assert usable_length(ViTConfig()) is None


def test_models_that_cannot_be_measured(tmp_path: Path):
    with pytest.raises(ModelError, match="nothing is there"):
        measure.compare_folders(str(tmp_path / "none"), str(tmp_path / "none"), SECTION)
    with pytest.raises(ModelError, match="holds no weights"):
        measure.folder_size(tmp_path)
    sizes = {"num_mel_bins": 8, "max_length": 32, "intermediate_size": 16, "patch_size": 4}
    with pytest.raises(ModelError, match=r"takes input_values of a shape that is not known: .* no conv_kernel"):
        measure.dummy_inputs(ASTModel(ASTConfig(**sizes, **SIZES)), 1, 8)
    characters = CanineModel(CanineConfig(intermediate_size=16, num_hash_buckets=16, **SIZES))
    with pytest.raises(ModelError, match=r"CanineModel takes input_ids of a range .* has no vocab_size"):
        measure.dummy_inputs(characters, 1, 8)
    talker = bert()
    talker.main_input_name = "numbers"
    with pytest.raises(ModelError, match="takes numbers: no input for measuring it is known, only input_ids, "):
        measure.dummy_inputs(talker, 1, 8)


@pytest.mark.gpu
def test_comparison_on_cuda():
    found = measure.compare(bert(8), bert(), SECTION.model_copy(update={"dtype": "float16"}), device="cuda")
    assert found.model.activation_bytes > 0
    assert found.machine.device != "cpu"


@pytest.mark.parametrize("tokens", [1, 4])
def test_a_text_with_images_holds_the_tokens_that_stand_for_them(tokens):
    model = tiny_model("gemma3", mm_tokens_per_image=tokens)
    inputs = measure.dummy_inputs(model, 3, 8)
    shown = inputs["input_ids"] == model.config.image_token_id
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, 8 + tokens)
    assert shown[:, :tokens].all()
    assert not shown[:, tokens:].any()
    blind = inputs | {"pixel_values": torch.zeros_like(inputs["pixel_values"])}
    assert not torch.equal(model(**inputs).logits, model(**blind).logits)


def test_images_that_need_more_than_pixels_are_refused(monkeypatch):
    model = tiny_model("gemma3")
    monkeypatch.setattr(model, "get_image_features", lambda pixel_values, image_sizes: None)
    with pytest.raises(ModelError, match="Gemma3ForConditionalGeneration takes images in a way that is not known"):
        measure.dummy_inputs(model, 1, 8)


@pytest.mark.parametrize("encoder", ["bert", "vit"])
def test_an_encoder_and_a_decoder_put_together_run_on_the_batch_that_is_made_for_them(encoder):
    decoder = tiny_model("gpt2", add_cross_attention=True, is_decoder=True)
    kind = EncoderDecoderModel if encoder == "bert" else VisionEncoderDecoderModel
    model = kind(encoder=tiny_model(encoder, head=""), decoder=decoder).eval()
    inputs = measure.dummy_inputs(model, 3, 8)
    assert inputs["decoder_input_ids"].shape == (3, 8)
    assert model(**inputs).logits.shape[:2] == (3, 8)
