"""Word embeddings in few bits on disk: rounded once and on request, and never again changed by saving and loading."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    CLIPTextModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
)

from prune_core.compaction import compact
from prune_core.embeddings.bits import EXPONENT, GROUP, pack, round_embeddings, rounded, stored, unpack
from prune_core.embeddings.rounding import round_measured
from prune_core.errors import ModelError
from prune_core.folders.loading import structure_of
from prune_core.folders.portable import make_portable
from prune_core.folders.pretrained import load_saved
from prune_core.folders.saving import save_compact
from prune_core.folders.storage import MASK, WEIGHT
from prune_core.masks import MaskSet
from prune_core.measure import folder_size
from prune_core.plugins import load_plugins
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TIED = ("gpt2", "gemma2", "opt", "t5", "bart", "whisper")
WORDS = "bert.embeddings.word_embeddings."


def matrix(shape, dtype, seed, exponent):
    """Values of all sizes, zeros and whole zero groups among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * torch.exp2(torch.randn(shape, generator=generator) * 4)
    values = (
        values * (torch.rand(shape, generator=generator) < 0.8) * (torch.rand(shape[0], 1, generator=generator) < 0.9)
    )
    return (values * 2.0**exponent).clamp(-30000, 30000).to(dtype)


def codes_of(weight, bits):
    """Codes and exponents by a plain loop over numbers."""
    limit, codes, exponents = 2 ** (bits - 1) - 1, [], []
    for row in weight.double().tolist():
        for start in range(0, len(row), GROUP):
            group = row[start : start + GROUP]
            exponent = -126
            while max(map(abs, group)) > limit * 2.0**exponent:
                exponent += 1
            exponents.append(exponent)
            codes += [round(value / 2.0**exponent) for value in group]
    return codes, exponents


@given(
    shape=array_shapes(min_dims=2, max_dims=2, max_side=70),
    dtype=st.sampled_from(FLOATS),
    bits=st.sampled_from((8, 4)),
    exponent=st.sampled_from((0, -5, 12, -24, -130)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_rounding_happens_once(shape, dtype, bits, exponent, seed):
    weight = matrix(shape, dtype, seed, exponent)
    codes, exponents = pack(weight, bits)
    once = unpack(codes, exponents, weight, bits)
    assert once.dtype == dtype
    again = pack(once, bits)
    assert torch.equal(rounded(once, bits), once)
    assert torch.equal(again[0], codes)
    assert torch.equal(again[1], exponents)
    step = torch.exp2(exponents.double()).repeat_interleave(GROUP, 1)[:, : shape[1]]
    assert ((weight.double() - once.double()).abs() <= step / 2).all()


@given(
    shape=array_shapes(min_dims=2, max_dims=2, max_side=40),
    bits=st.sampled_from((8, 4)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_values_are_the_same_in_every_float_type(shape, bits, seed):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 16
    codes, exponents = pack(weight, bits)
    values = [unpack(codes, exponents, weight.to(dtype), bits).double() for dtype in FLOATS]
    assert all(torch.equal(one, values[0]) for one in values)


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_and_exponents_are_those_of_a_plain_loop(bits):
    weight = matrix((7, 45), torch.float32, 3, -2)
    weight[2, :32] = 0
    weight[3, 0] = 127 / 64  # exactly the largest code
    codes, exponents = codes_of(weight, bits)
    found = pack(weight, bits)
    assert found[1].flatten().tolist() == exponents
    values = [code * 2.0**e for code, e in zip(codes, [x for r in range(7) for x in spread(exponents, r)], strict=True)]
    assert unpack(*found, weight, bits).flatten().tolist() == values
    if bits == 8:
        assert found[0].tolist() == codes


def spread(exponents, row):
    """The exponents of the 45 values of a row."""
    return [exponents[2 * row]] * 32 + [exponents[2 * row + 1]] * 13


def test_four_bits_are_two_codes_a_byte():
    weight = torch.tensor([[7.0, -1.0, 0.0], [3.0, -7.0, 5.0]])
    codes, exponents = pack(weight, 4)
    assert exponents.tolist() == [[0], [0]]
    assert codes.view(torch.uint8).tolist() == [0xF7, 0x30, 0x59]


def test_what_was_trained_since_is_stored_in_full():
    weight = rounded(torch.randn(5, 40), 8)
    assert stored(weight, 8).keys() == {WEIGHT, EXPONENT}
    weight[3, 2] += 1e-6
    assert torch.equal(stored(weight, 8)[WEIGHT], weight)
    assert stored(torch.full((2, 2), torch.nan), 8).keys() == {WEIGHT}


@pytest.mark.parametrize(("rows", "columns", "bits"), [(5, 31, 8), (6, 32, 8), (5, 32, 4), (10, 32, 8)])
def test_unpack_refuses_what_does_not_agree(rows, columns, bits):
    codes, exponents = pack(torch.randn(5, 32), 8)
    with pytest.raises(ModelError, match="the file is damaged"):
        unpack(codes, exponents, torch.empty(rows, columns), bits)


@pytest.fixture(scope="session")
def rounded_folder(tmp_path_factory):
    """`rounded_folder(family, bits=8)`: folder and model of a compact model whose embeddings were rounded."""
    made = {}

    def get(family, bits=8, *, sparse=False):
        if (family, bits, sparse) not in made:
            model = tiny_model(family)
            kept = uneven(model)
            masks = unit_masks(model, lambda unit: kept[unit.key])
            compaction = compact(model, random_masks(model, "block", sparse=True) if sparse else masks)
            round_embeddings(compaction.model, bits)
            folder = tmp_path_factory.mktemp("rounded") / family
            save_compact(compaction, folder)
            made[family, bits, sparse] = folder, compaction.model
        return made[family, bits, sparse]

    return get


def same_bytes(one, other):
    before, after = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    same = all(before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before)
    return before.keys() == after.keys() and same


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["bert", "albert", "deberta-v2", "llama", "clip", "marian", *TIED])
def test_loaded_and_saved_again(family, bits, rounded_folder, same, tmp_path):
    folder, written = rounded_folder(family, bits)
    model, report = type(written).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert same(model, written)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path)
    assert same_bytes(folder, tmp_path)
    recorded = [json.loads((one / "config.json").read_text())["quantization_config"] for one in (folder, tmp_path)]
    assert recorded[0] == recorded[1]
    assert recorded[0]["embedding_bits"] == bits


@pytest.mark.parametrize("family", TIED)
def test_tied_heads_are_tied_when_loaded(family, rounded_folder):
    folder, written = rounded_folder(family)
    model = type(written).from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(tensor.dtype == torch.int8 for tensor in load_file(folder / "model.safetensors").values()) == 2


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_size_on_disk_follows_the_bits(bits, dtype, tmp_path):
    model = BertModel(BertConfig(vocab_size=3000, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)).to(dtype)
    model.save_pretrained(tmp_path / "full")
    round_embeddings(model, bits)
    model.save_pretrained(tmp_path / "small")
    expected = 3000 * 64 * (dtype.itemsize - bits / 8 - 1 / GROUP)
    saved = folder_size(tmp_path / "full") - folder_size(tmp_path / "small")
    assert saved == pytest.approx(expected, rel=0.01)
    assert BertModel.from_pretrained(tmp_path / "small").dtype == dtype


def test_another_dtype_has_the_same_embeddings_and_stores_the_same_codes(rounded_folder, same, tmp_path):
    folder, written = rounded_folder("bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    words = model.get_input_embeddings().weight
    assert words.dtype == torch.bfloat16
    assert torch.equal(words.float(), written.get_input_embeddings().weight)
    model.save_pretrained(tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    for part in (WEIGHT, EXPONENT):
        assert torch.equal(before[WORDS + part], after[WORDS + part])


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_in_shards_and_with_a_device_map(device_map, rounded_folder, same, tmp_path):
    folder, written = rounded_folder("bert")
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="2KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index[WORDS + WEIGHT] != index[WORDS + EXPONENT]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, device_map=device_map)
    assert same(model.cpu(), written)


def test_other_heads_and_the_trunk(rounded_folder, answers, tmp_path):
    folder, written = rounded_folder("bert")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "trunk")
    AutoModelForTokenClassification.from_pretrained(tmp_path / "trunk").save_pretrained(tmp_path / "tokens")
    assert f"embeddings.word_embeddings.{EXPONENT}" in load_file(tmp_path / "trunk" / "model.safetensors")
    found = answers(AutoModel.from_pretrained(tmp_path / "tokens"))["last_hidden_state"]
    assert torch.equal(found, answers(written.bert)["last_hidden_state"])


def test_a_tower_by_itself(rounded_folder):
    folder, written = rounded_folder("clip")
    words = CLIPTextModel.from_pretrained(folder).get_input_embeddings().weight
    assert torch.equal(words, written.text_model.get_input_embeddings().weight)


def test_two_models_put_together(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    parts = [BertConfig(vocab_size=60, **sizes), BertConfig(vocab_size=70, is_decoder=True, **sizes)]
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*parts, add_cross_attention=True))
    names = round_embeddings(model)
    assert [name.partition(".")[0] for name in names] == ["encoder", "decoder"]
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert all(torch.equal(again.get_parameter(name), model.get_parameter(name)) for name in names)


def test_sparse_weights_too(rounded_folder, same, tmp_path):
    folder, written = rounded_folder("bert", sparse=True)
    state = load_file(folder / "model.safetensors")
    assert state.keys() >= {WORDS + EXPONENT, f"bert.encoder.layer.0.output.dense.{MASK}"}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert same(model, written)
    model.save_pretrained(tmp_path)
    assert same_bytes(folder, tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.load_state_dict(state)
    assert same(model, written)


def test_load_state_dict_takes_packed_embeddings(rounded_folder, same):
    folder, written = rounded_folder("gpt2", 4)
    model = type(written).from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert same(model, written)


def test_trained_on_it_saves_the_new_weights_in_full(rounded_folder, same, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(rounded_folder("bert")[0]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**tiny_inputs(model)).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same(again, model)
    round_embeddings(again)
    again.save_pretrained(tmp_path / "rounded")
    assert load_file(tmp_path / "rounded" / "model.safetensors")[WORDS + WEIGHT].dtype == torch.int8


def test_compacted_further_it_stays_so(rounded_folder, same, tmp_path):
    folder, _ = rounded_folder("bert", 4)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    key = next(unit.key for unit in structure_of(model).units if unit.count > 1)
    compaction = compact(model, unit_masks(model, lambda unit: [0] if unit.key == key else None))
    save_compact(compaction, tmp_path)
    assert WORDS + EXPONENT in load_file(tmp_path / "model.safetensors")
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path), compaction.model)


def test_a_dense_model_of_which_nothing_was_removed(same, tmp_path):
    compaction = compact(tiny_model("bert"), MaskSet({}))
    round_embeddings(compaction.model)
    save_compact(compaction, tmp_path)
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path), compaction.model)
    card = (tmp_path / "README.md").read_text()
    assert "import prune_core" in card
    assert "word embeddings are stored in 8 bits" in card
    with pytest.raises(ModelError, match="for loading needs embeddings in few bits"):
        make_portable(tmp_path, load_plugins())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_values_that_cannot_be_rounded_are_refused(value):
    model = tiny_model("bert")
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] = value
    with pytest.raises(ModelError, match=r"word_embeddings\.weight cannot be stored in 8 bits"):
        round_embeddings(model)
    assert getattr(model.config, "quantization_config", None) is None


def test_what_rounding_changes_of_padding_does_not_count():
    model = tiny_model("bert").bert.eval()
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    batch = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    assert round_measured(model, 4, [batch]).largest_difference > 0
    with torch.no_grad():
        model.get_input_embeddings().weight[0] += 0.01
    changed = round_measured(model, 4, [batch])
    assert (changed.largest_difference, changed.mean_difference) == (0, 0)
    del batch["attention_mask"]
    with torch.no_grad():
        model.get_input_embeddings().weight[0] += 0.01
    assert round_measured(model, 4, [batch]).largest_difference > 0


def test_a_model_without_words_is_refused():
    with pytest.raises(ModelError, match="ViTForImageClassification has no word embeddings to store in 8 bits"):
        round_embeddings(tiny_model("vit"))


@pytest.mark.parametrize("part", [WEIGHT, EXPONENT])
@pytest.mark.parametrize("damage", ["lost", "shorter", "of another kind"])
def test_damaged_folders_are_refused(part, damage, rounded_folder, tmp_path):
    folder, written = rounded_folder("bert")
    state = load_file(folder / "model.safetensors")
    tensor = state.pop(WORDS + part)
    if damage != "lost":
        state[WORDS + part] = tensor[:-1].clone() if damage == "shorter" else tensor.float()
    written.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_saved(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", [3, "8", [8]], ids=str)
def test_unknown_bits_are_refused(bits, rounded_folder, tmp_path):
    folder, _ = rounded_folder("bert")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["embedding_bits"] = bits
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"embeddings in .* bits are unknown to this prune-core"):
        load_saved(str(tmp_path))
