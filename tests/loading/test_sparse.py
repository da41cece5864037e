"""Sparse weights on disk: the size follows the density, and every bit comes back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from prune_core.compaction import compact
from prune_core.errors import ModelError
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.folders.storage import MASK, WEIGHT, pack, unpack
from prune_core.granularity import Element
from prune_core.masks import Mask, MaskSet
from prune_core.measure import folder_size
from prune_core.testing.tiny import tiny_inputs, tiny_model


def element_masks(model, density):
    """Exactly this share of every prunable weight survives; no head or neuron empties."""
    masks = {}
    for name, weight in structure_of(model).weights(model):
        values = torch.zeros(weight.numel(), dtype=torch.bool)
        values[torch.randperm(weight.numel())[: round(density * weight.numel())]] = True
        masks[name] = Mask(Element(), values.view(weight.shape), tuple(weight.shape))
    return MaskSet(masks, sparse=True)


@given(
    shape=array_shapes(min_dims=2, max_dims=2, max_side=19),
    density=st.sampled_from((0.0, 0.1, 0.5, 1.0)),
    dtype=st.sampled_from((torch.float32, torch.float16, torch.bfloat16, torch.float64)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pack_and_unpack_are_inverse(shape, density, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator).to(dtype) * (torch.rand(shape, generator=generator) < density)
    packed = pack(weight)
    assert packed[WEIGHT].numel() == int((weight != 0).sum())
    assert packed[MASK].numel() == -(-weight.numel() // 8)
    again = unpack(packed[WEIGHT], packed[MASK], weight)
    assert again.dtype == dtype
    assert torch.equal(again, weight)


def test_packed_by_hand():
    weight = torch.tensor([[0.0, 2.0, 0.0, 0.0, 3.0], [4.0, 0.0, 0.0, 0.0, 5.0]])
    packed = pack(weight)
    assert packed[WEIGHT].tolist() == [2, 3, 4, 5]
    assert packed[MASK].tolist() == [0b01001100, 0b01000000]


@pytest.mark.parametrize(("values", "bits"), [(3, [0b11100000, 0]), (3, [0b11100000]), (2, [0b11100000, 0]), (3, [])])
def test_unpack_refuses_what_does_not_agree(values, bits):
    like = torch.empty((2, 5) if len(bits) != 2 or values != 3 else (1, 8))
    with pytest.raises(ModelError, match=r"damaged"):
        unpack(torch.ones(values), torch.tensor(bits, dtype=torch.uint8), like)


@pytest.mark.parametrize("density", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_on_disk_follows_the_density(density, dtype, tmp_path):
    model = tiny_model("bert", hidden_size=64, intermediate_size=256).to(dtype)
    save_compact(compact(model, element_masks(model, density)), tmp_path / "sparse")
    model.save_pretrained(tmp_path / "dense")
    prunable = structure_of(model).size(model)
    width = dtype.itemsize
    saved = folder_size(tmp_path / "dense") - folder_size(tmp_path / "sparse")
    expected = prunable * width - prunable * (density * width + 1 / 8)
    assert saved == pytest.approx(expected, rel=0.02)
    rest = folder_size(tmp_path / "dense") - prunable * width
    assert folder_size(tmp_path / "sparse") <= 1.1 * (rest + prunable * (density * width + 1 / 8))
    if (density, width) == (0.1, 4):
        assert prunable * width >= 7 * (folder_size(tmp_path / "sparse") - rest)


def test_saved_again_it_packs_the_same_weights_and_no_others(compact_folder, tmp_path):
    written = compact_folder("bert", sparse=True)
    AutoModelForSequenceClassification.from_pretrained(written.folder).save_pretrained(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (written.folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    packed = {name.removesuffix(f".{MASK}") for name in after if name.endswith(MASK)}
    assert packed == set(structure_of(written.model).linears())
    assert "bert.embeddings.word_embeddings.weight" in after


def test_trained_on_it_saves_the_new_weights(compact_folder, same, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(compact_folder("bert", sparse=True).folder).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**tiny_inputs(model)).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    assert not same(model, compact_folder("bert", sparse=True).model)
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path), model)


def test_load_state_dict_takes_packed_weights(compact_folder, same):
    """What a Trainer does when it resumes from a checkpoint of its own."""
    written = compact_folder("bert", sparse=True)
    model = AutoModelForSequenceClassification.from_pretrained(written.folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.load_state_dict(load_file(written.folder / "model.safetensors"))
    assert same(model, written.model)
