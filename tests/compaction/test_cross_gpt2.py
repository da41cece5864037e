"""GPT-2 as the decoder of an encoder-decoder: its cross-attention has key and value in one Conv1D, and query apart."""

import copy

import pytest
import torch
from transformers import EncoderDecoderModel, VisionEncoderDecoderModel

from prune_core.compaction import compact
from prune_core.errors import StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.granularity import Block
from prune_core.kit.layouts import joint
from prune_core.structure import Role
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import HIDDEN, tiny_inputs, tiny_model
from prune_core.verification.trial import prove


def decoder():
    return tiny_model("gpt2", layers=4, add_cross_attention=True)


@torch.no_grad()
def answer(model):
    generator = torch.Generator().manual_seed(0)
    tokens = {name: tensor for name, tensor in tiny_inputs(model).items() if name != "labels"}
    states = torch.randn(len(tokens["input_ids"]), 5, HIDDEN, generator=generator)
    mask = (torch.arange(5) < torch.tensor([[5], [3], [4], [2]])).long()
    return model(**tokens, encoder_hidden_states=states, encoder_attention_mask=mask).logits


def masks_of(model, kind):
    if kind in ("element", "head"):
        return random_masks(model, kind, sparse=kind == "element")
    kept = uneven(model)
    return unit_masks(model, lambda unit: [] if kind == "emptied" and "cross" in unit.key else kept[unit.key])


def test_its_units():
    structure = structure_of(decoder())
    assert structure.keys()[:3] == ["layer.0.attention", "layer.0.cross_attention", "layer.0.ffn"]
    unit = structure.unit("layer.0.cross_attention")
    assert list(unit.linears().values()) == [Role.QUERY, Role.KEY_VALUE, Role.ATTENTION_OUTPUT]
    assert (unit.heads, unit.key_value_heads) == (4, 4)
    assert structure_of(tiny_model("gpt2")).keys()[:2] == ["layer.0.attention", "layer.0.ffn"]


@pytest.mark.parametrize("kind", ["whole units", "emptied", "head", "element"])
def test_it_is_the_masked_model_and_reloads(kind, tmp_path):
    model = decoder()
    masks = masks_of(model, kind)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks)
    assert (answer(masked) - answer(model)).abs().max() > 1e-2
    torch.testing.assert_close(answer(compaction.model), answer(masked), atol=1e-5, rtol=1e-5)
    save_compact(compaction, tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(answer(again.eval()), answer(compaction.model))
    assert structure_of(again).sizes() == structure_of(compaction.model).sizes()


def test_values_without_rows_leave_a_constant():
    """The head goes by its values' part of the fused matrix; its keys do not decide."""
    model = decoder()
    name = structure_of(model).unit("layer.0.cross_attention").value
    weight = model.get_parameter(f"{name}.weight")
    masks = random_masks(model, "element")
    mask = masks[f"{name}.weight"].values
    mask[:] = True
    mask[:, HIDDEN + 8 : HIDDEN + 16] = False  # the values of head 1
    mask[:, 16:24] = False  # the keys of head 2
    assert weight.shape == mask.shape
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks)
    kept = next(unit.kept for unit in compaction.units if unit.key == "layer.0.cross_attention")
    assert 1 not in kept
    assert 2 in kept
    torch.testing.assert_close(answer(compaction.model), answer(masked), atol=1e-5, rtol=1e-5)


def test_it_generates_beside_an_encoder():
    model = decoder()
    masks = masks_of(model, "whole units")
    masked = copy.deepcopy(model)
    masks.bake(masked)
    found = []
    for one in (masked, compact(model, masks).model):
        both = EncoderDecoderModel(encoder=tiny_model("bert", head=""), decoder=one).eval()
        both.config.decoder_start_token_id, both.config.pad_token_id = 1, 0
        tokens = tiny_inputs(both.encoder)["input_ids"]
        length = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False, "decoder_start_token_id": 1}
        found += [both.generate(tokens, use_cache=cached, **length) for cached in (False, True)]
    assert all(torch.equal(one, found[0]) for one in found[1:])


def test_a_joint_mask_needs_one_matrix_each():
    unit = structure_of(decoder()).unit("layer.0.cross_attention")
    with pytest.raises(StructureError, match=r"has key and value in one matrix, .*c_attn: a joint mask needs one of"):
        joint(unit, Block(8, 8))


@pytest.mark.parametrize("encoder", ["bert", "vit"])
def test_put_together_with_an_encoder_both_are_cut(encoder, tmp_path):
    """The decoder is known by its family, the encoder is read by names; the layout travels along, and is tried."""
    kind = EncoderDecoderModel if encoder == "bert" else VisionEncoderDecoderModel
    model = kind(encoder=tiny_model(encoder, head=""), decoder=decoder()).eval()
    ids = tiny_inputs(model.decoder)["input_ids"]
    first = {"input_ids": ids} if encoder == "bert" else {"pixel_values": tiny_inputs(model.encoder)["pixel_values"]}
    inputs = {**first, "decoder_input_ids": ids[:, :6]}
    structure = structure_of(model)
    assert {unit.key.partition(".layer.")[0] for unit in structure.units} == {"encoder", "decoder"}
    assert {"encoder.layer.0.ffn", "decoder.layer.3.cross_attention"} <= set(structure.keys())
    prove(model, structure, inputs)
    masks = unit_masks(model, lambda unit: [0, 2] if "attention" in unit.key else range(9))
    masked = copy.deepcopy(model)
    masks.bake(masked)
    compaction = compact(model, masks)
    with torch.no_grad():
        expected = masked(**inputs).logits
        torch.testing.assert_close(compaction.model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        save_compact(compaction, tmp_path)
        again = kind.from_pretrained(tmp_path).eval()
        assert torch.equal(again(**inputs).logits, compaction.model(**inputs).logits)
