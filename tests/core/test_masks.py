"""Masks in memory and on disk: what is saved is read, and what was tampered with is refused."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, safe_open, save_file
from torch import nn

from prune_core.errors import MaskError
from prune_core.granularity import NM, Block, Column, Element, Head, Neuron, Row, RowsColumns
from prune_core.masks import Mask, MaskSet, bias_mask

# `tmp_path` is one folder for all examples of a test: every example overwrites the file.
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

sides = st.integers(1, 5)


@st.composite
def masks(draw):
    height, width, rows, columns = (draw(sides) for _ in range(4))
    shape = (height * rows, width * columns)
    fitting = [Element(), RowsColumns(), Block(height, width), NM(1, width), Head(height, "rows"), Row(), Column()]
    granularity = draw(st.sampled_from([*fitting, Head(width, "columns"), Neuron(1, "columns")]))
    values = draw(arrays.arrays(bool, granularity.score_shape(shape)))
    return Mask(granularity, torch.from_numpy(values), shape)


@st.composite
def mask_sets(draw):
    found = {}
    for name in draw(st.sets(st.sampled_from(["a", "b.c", "layer.0.query", "x" * 200]), max_size=4)):
        mask = draw(masks())
        found[f"{name}.weight"] = mask
        found[f"{name}.bias"] = bias_mask(mask.granularity, mask.values, mask.shape)
    return MaskSet(found, sparse=draw(st.booleans()))


def same(one: MaskSet, other: MaskSet) -> None:
    assert list(one) == list(other)
    assert one.sparse is other.sparse
    for name in one:
        assert one[name].granularity == other[name].granularity
        assert one[name].shape == other[name].shape
        assert other[name].values.dtype == torch.bool
        assert torch.equal(one[name].values, other[name].values)


@in_one_folder
@given(found=mask_sets())
def test_round_trip(tmp_path, found):
    found.save(tmp_path / "masks.safetensors")
    same(found, MaskSet.load(tmp_path / "masks.safetensors"))


def test_round_trip_of_a_transposed_mask(tmp_path):
    values = torch.tensor([[True, False, False], [True, True, False]])
    MaskSet({"w": Mask(Block(2, 2), values.T, (6, 4))}).save(tmp_path / "masks")
    assert torch.equal(MaskSet.load(tmp_path / "masks")["w"].values, values.T)


def test_one_bit_a_score(tmp_path):
    path = tmp_path / "masks"
    MaskSet({"w": Mask(Element(), torch.ones(512, 512, dtype=torch.bool), (512, 512))}).save(path)
    assert path.stat().st_size < 512 * 512 / 8 + 500


@given(masks(), masks())
def test_density_counts_weights_and_no_biases(one, other):
    bias = Mask(Element(), torch.zeros(7, dtype=torch.bool), (7,))
    full = [one.expand().numpy(), other.expand().numpy()]
    wanted = sum(int(mask.sum()) for mask in full) / sum(mask.size for mask in full)
    found = MaskSet({"a.weight": one, "b.weight": other, "a.bias": bias})
    assert found.density() == wanted
    assert found.granularities() == {one.granularity.kind, other.granularity.kind}
    assert f"{wanted:.3f}" in repr(found)


def test_no_mask_keeps_everything():
    assert MaskSet({}).density() == 1.0


@pytest.mark.parametrize("shape", [(6,), (3, 3), (3, 2), (1, 2, 3), (4, 6)])
def test_values_of_another_shape(shape):
    with pytest.raises(MaskError, match=r"a block:2x2 mask of a parameter of shape \[4, 6\] has shape \[2, 3\]"):
        Mask(Block(2, 2), torch.ones(shape, dtype=torch.bool), (4, 6))


def test_bake_zeroes_what_is_masked_and_nothing_else():
    layer = nn.Linear(4, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    values = torch.tensor([[True, False]])
    biases = bias_mask(Row(), torch.tensor([True, False]), (2, 4))
    MaskSet({"weight": Mask(Block(2, 2), values, (2, 4)), "bias": biases}).bake(layer)
    assert torch.equal(layer.weight, weight * torch.tensor([1.0, 1, 0, 0]))
    assert torch.equal(layer.bias, bias * torch.tensor([1.0, 0]))


def test_bake_zeroes_even_what_is_no_number():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[torch.inf, 1.0]]))
    MaskSet({"weight": Mask(Element(), torch.tensor([[False, True]]), (1, 2))}).bake(layer)
    assert layer.weight.tolist() == [[0.0, 1.0]]


def test_bake_refuses_another_model():
    mask = Mask(Element(), torch.ones(2, 2, dtype=torch.bool), (2, 2))
    with pytest.raises(MaskError, match=r"'other\.weight', which the model does not have: give the model that"):
        MaskSet({"other.weight": mask}).bake(nn.Linear(2, 2))
    with pytest.raises(
        MaskError, match=r"the mask of 'weight' is for shape \[2, 2\], the model has \[2, 3\]: give the model that"
    ):
        MaskSet({"weight": mask}).bake(nn.Linear(3, 2))


# Files


@pytest.fixture
def saved(tmp_path) -> Path:
    values = torch.from_numpy(np.random.default_rng(0).random((5, 4)) < 0.5)
    found = {"a.weight": Mask(Block(2, 3), values, (10, 12)), "a.bias": bias_mask(Block(2, 3), values, (10, 12))}
    MaskSet(found, sparse=True).save(tmp_path / "masks.safetensors")
    return tmp_path / "masks.safetensors"


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def rewrite(path: Path, tensors=None, **changes) -> None:
    """Write the file again with other tensors or other fields of its header."""
    found = header(path)
    for name, value in changes.items():
        found[name] = value if isinstance(value, str) else json.dumps(value)
    save_file(load_file(path) if tensors is None else tensors, path, metadata=found)


def refused(path: Path, said: str = "damaged or not a masks file") -> None:
    with pytest.raises(MaskError, match=said) as error:
        MaskSet.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_may_be_a_string(tmp_path):
    masks = MaskSet({"w": Mask(Row(), torch.tensor([True, False]), (2, 3))})
    masks.save(str(tmp_path / "masks.safetensors"))
    same(masks, MaskSet.load(str(tmp_path / "masks.safetensors")))


def test_missing_file(tmp_path):
    refused(tmp_path / "absent.safetensors", "no masks at")
    refused(tmp_path, "no masks at")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    refused(saved)


def test_every_truncation(saved):
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        refused(saved)


@in_one_folder
@given(st.binary(max_size=200))
def test_any_other_bytes(tmp_path, content):
    (tmp_path / "noise").write_bytes(content)
    refused(tmp_path / "noise", "masks file")


@in_one_folder
@given(st.data())
def test_any_byte_changed(tmp_path, data):
    """Whatever is changed, the file is read as well-formed masks or refused; no other error comes out."""
    path = tmp_path / "masks"
    MaskSet({"w": Mask(Block(2, 3), torch.ones(2, 2, dtype=torch.bool), (4, 6))}).save(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(MaskError):
        assert all(isinstance(mask, Mask) for mask in MaskSet.load(path).values())


def test_model_weights_are_no_masks(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "model.safetensors", "is not a masks file: its header names the format 'pt'")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "plain.safetensors")
    refused(tmp_path / "plain.safetensors", "is not a masks file")


@pytest.mark.parametrize("version", ["0", "2", "1.0", "next"])
def test_other_version(saved, version):
    rewrite(saved, version=version)
    refused(saved, f"has masks format {version}, this prune reads 1")


def test_version_is_missing(saved):
    found = header(saved)
    del found["version"]
    save_file(load_file(saved), saved, metadata=found)
    refused(saved, "has masks format None")


@pytest.mark.parametrize(
    "described",
    [
        {},
        [],
        7,
        "{",
        {"a.weight": ["block:2x3", [10, 12]]},
        {"a.weight": ["block:2x3", [10, 12]], "a.bias": ["element", [10]], "b.weight": ["element", [3, 3]]},
        {"a.weight": ["block:2x3", [10, 24]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", [10, 6]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:4x3", [10, 12]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:0x3", [10, 12]], "a.bias": ["element", [10]]},
        {"a.weight": ["circle", [10, 12]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", []], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", [10]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", [-10, -12]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", ["10", "12"]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", [10.0, 12.0]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3", [10**15, 12]], "a.bias": ["element", [10]]},
        {"a.weight": ["block:2x3"], "a.bias": ["element", [10]]},
        {"a.weight": None, "a.bias": ["element", [10]]},
        {"a.weight": [3, [10, 12]], "a.bias": ["element", [10]]},
    ],
    ids=repr,
)
def test_header_that_does_not_fit(saved, described):
    rewrite(saved, masks=described)
    refused(saved)


def test_masks_that_are_not_described_are_missing(saved):
    found = header(saved)
    del found["masks"]
    save_file(load_file(saved), saved, metadata=found)
    refused(saved)


@pytest.mark.parametrize("sparse", ["", "maybe", "null", "1", "[]"])
def test_sparse_is_yes_or_no(saved, sparse):
    rewrite(saved, sparse=sparse)
    refused(saved)


@pytest.mark.parametrize(
    "change", [lambda bits: bits[:-1], lambda bits: torch.cat([bits, bits[:1]]), torch.Tensor.float]
)
def test_bits_that_are_too_few_too_many_or_no_bits(saved, change):
    tensors = load_file(saved)
    tensors["a.weight"] = change(tensors["a.weight"])
    rewrite(saved, tensors)
    refused(saved)


def test_failed_save_leaves_the_old_masks(saved, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    old = MaskSet.load(saved)
    monkeypatch.setattr("prune_core.masks.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        MaskSet({}).save(saved)
    same(old, MaskSet.load(saved))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
