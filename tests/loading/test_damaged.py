"""A folder that was tampered with, or is of another version, is refused in one line; never half loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from prune_core.errors import ModelError
from prune_core.folders.pretrained import load_pretrained, load_saved
from prune_core.folders.storage import MASK, WEIGHT
from prune_core.testing.tiny import tiny_model


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def set_unit(key, entry):
    return lambda section: section["units"].__setitem__(key, entry)


CASES = {
    "head out of range": (set_unit("layer.0.attention", {"kept": [0, 4], "of": 4}), "layer.0.attention"),
    "negative head": (set_unit("layer.0.attention", {"kept": [-1, 0], "of": 4}), "layer.0.attention"),
    "head twice": (set_unit("layer.0.attention", {"kept": [2, 2], "of": 4}), "layer.0.attention"),
    "heads out of order": (set_unit("layer.0.attention", {"kept": [2, 0], "of": 4}), "layer.0.attention"),
    "other number of heads": (set_unit("layer.0.attention", {"kept": [0, 2], "of": 8}), "layer.0.attention"),
    "too many neurons": (set_unit("layer.0.ffn", {"kept": 65, "of": 64}), "layer.0.ffn"),
    "negative neurons": (set_unit("layer.0.ffn", {"kept": -1, "of": 64}), "layer.0.ffn"),
    "other number of neurons": (set_unit("layer.0.ffn", {"kept": 5, "of": 128}), "layer.0.ffn"),
    "a number of heads": (set_unit("layer.0.attention", {"kept": 2, "of": 4}), "layer.0.attention"),
    "heads are text": (set_unit("layer.0.attention", {"kept": ["0", "1"], "of": 4}), "layer.0.attention"),
    "neurons by index": (set_unit("layer.0.ffn", {"kept": [0, 1], "of": 64}), "layer.0.ffn"),
    "neurons are true": (set_unit("layer.0.ffn", {"kept": True, "of": 64}), "layer.0.ffn"),
    "no number": (set_unit("layer.0.ffn", {"kept": "five", "of": 64}), "layer.0.ffn"),
    "nothing kept": (set_unit("layer.0.ffn", {"of": 64}), "layer.0.ffn"),
    "no entry": (set_unit("layer.0.ffn", None), "layer.0.ffn"),
    "unknown unit": (set_unit("layer.9.ffn", {"kept": 1, "of": 64}), "layer.9.ffn"),
    "unit left out": (lambda section: section["units"].pop("layer.2.ffn"), "layer.2.ffn"),
    "no units": (lambda section: section.pop("units"), "units"),
    "units are no mapping": (lambda section: section.update(units=[1, 2]), "units"),
    "future version": (lambda section: section.update(version=2), "format 2"),
    "version is text": (lambda section: section.update(version="1"), "format '1', this prune-core reads 1"),
    "no version": (lambda section: section.update(version="latest"), "format 'latest'"),
}


@pytest.mark.parametrize(("change", "named"), CASES.values(), ids=CASES.keys())
def test_a_config_that_does_not_fit_is_refused(change, named, own_folder):
    folder = own_folder()
    edit(folder, change)
    with pytest.raises(ModelError, match=named) as caught:
        AutoModelForSequenceClassification.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=named):
        load_saved(str(folder))


def test_other_sizes_than_the_weights_have_are_refused(own_folder):
    folder = own_folder()
    edit(folder, set_unit("layer.0.ffn", {"kept": 6, "of": 64}))
    with pytest.raises(RuntimeError, match=r"intermediate\.dense|mismatch"):
        AutoModelForSequenceClassification.from_pretrained(folder)
    sizes = r"layer\.0\.intermediate\.dense\.bias is \[5\] in the weights and \[6\] by the configuration \(and 2 more"
    with pytest.raises(ModelError, match=sizes) as caught:
        load_saved(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_weight_file_is_refused(share, sparse, own_folder):
    weights = own_folder(sparse=sparse) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Exception, match=r"."):
        AutoModelForSequenceClassification.from_pretrained(weights.parent)
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_saved(str(weights.parent))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(own_folder):
    folder = own_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_saved(str(folder))


def test_a_weight_file_that_lacks_a_layer_is_refused(own_folder):
    folder = own_folder()
    state = load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.0.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"holds no weights for 1 parameters .*layer\.0\.output\.dense\.weight"):
        load_saved(str(folder))


NAME = "bert.encoder.layer.1.intermediate.dense."


def flip(state):
    state[f"{NAME}{MASK}"][0] ^= 128


def shift(state):
    """As many bits set as before, in a mask that is a byte too long."""
    state[f"{NAME}{MASK}"] = torch.cat([state[f"{NAME}{MASK}"], torch.zeros(1, dtype=torch.uint8)])


def shorten_mask(state):
    state[f"{NAME}{MASK}"] = state[f"{NAME}{MASK}"][:-1].clone()


def shorten_values(state):
    state[f"{NAME}{WEIGHT}"] = state[f"{NAME}{WEIGHT}"][:-1].clone()


def lengthen_values(state):
    state[f"{NAME}{WEIGHT}"] = torch.cat([state[f"{NAME}{WEIGHT}"], torch.ones(1)])


def wrong_kind(state):
    state[f"{NAME}{MASK}"] = state[f"{NAME}{MASK}"].float()


def lose_mask(state):
    del state[f"{NAME}{MASK}"]


def lose_values(state):
    del state[f"{NAME}{WEIGHT}"]


@pytest.mark.parametrize(
    "damage",
    [flip, shift, shorten_mask, shorten_values, lengthen_values, wrong_kind, lose_mask, lose_values],
    ids=lambda damage: damage.__name__,
)
def test_damaged_packed_weights_are_refused(damage, own_folder):
    folder = own_folder(sparse=True)
    state = load_file(folder / "model.safetensors")
    damage(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"."):
        AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ModelError) as caught:
        load_saved(str(folder))
    assert "\n" not in str(caught.value)


BROKEN_CONFIGS = {
    "size is text": {"hidden_size": "x"},
    "size is nothing": {"hidden_size": None},
    "quantization_config is text": {"quantization_config": "foo"},
    "labels are a list": {"id2label": ["a", "b"]},
    "no heads": {"num_attention_heads": 0},
    "unknown activation": {"hidden_act": "no such"},
    "architecture is a number": {"architectures": [1]},
    "another quantization, half described": {"quantization_config": {"quant_method": "gptq"}},
}


def plain_folder(tmp_path, **changes):
    tiny_model("bert").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return tmp_path


@pytest.mark.parametrize("changes", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS.keys())
def test_a_config_that_makes_no_model_is_refused(changes, tmp_path):
    with pytest.raises(ModelError, match=r"cannot be loaded|no model that can be read|its class") as caught:
        load_saved(str(plain_folder(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new_head", [False, True])
def test_a_config_of_other_sizes_than_the_weights_is_refused_by_name(new_head, tmp_path):
    folder = plain_folder(tmp_path, vocab_size=77)
    sizes = r"embeddings\.word_embeddings\.weight is \[\d+, 32\] in the weights and \[77, 32\] by the configuration;"
    with pytest.raises(ModelError, match=sizes) as caught:
        load_pretrained(AutoModelForSequenceClassification, str(folder), new_head=new_head)
    assert "\n" not in str(caught.value)


def test_only_a_new_head_may_have_other_sizes(tmp_path):
    folder = str(plain_folder(tmp_path))
    with pytest.raises(ModelError, match=r"classifier\.bias is \[\d\] in the weights and \[7\] by the configuration"):
        load_pretrained(AutoModelForSequenceClassification, folder, num_labels=7)
    assert load_pretrained(AutoModelForSequenceClassification, folder, num_labels=7, new_head=True).num_labels == 7


def test_a_pickle_of_garbage_is_refused(tmp_path):
    folder = plain_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"garbage" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_saved(str(folder))


@pytest.mark.parametrize("layers", [-1, 0, 1])
@pytest.mark.parametrize("bare", [False, True])
def test_a_config_of_fewer_layers_than_the_weights_is_refused(bare, layers, tmp_path):
    """Of a model with its head, and of a checkpoint of the bare model, whose keys have no prefix."""
    model = tiny_model("bert")
    (model.base_model if bare else model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    for auto in (AutoModelForSequenceClassification, AutoModel):
        with pytest.raises(ModelError, match=rf"more layers than its config\.json states.*would have {max(layers, 0)}"):
            load_pretrained(auto, str(tmp_path))


def test_weights_that_are_rightly_unused_are_no_fault(tmp_path):
    """Position ids, a pooler and another head, as older checkpoints have them."""
    folder = plain_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    state |= {"bert.embeddings.position_ids": torch.arange(24), "bert.embeddings.mask_token": torch.zeros(1)}
    state |= {"cls.predictions.bias": torch.zeros(4), "qa_outputs.0.weight": torch.zeros(4)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_pretrained(AutoModel, str(folder)).config.num_hidden_layers == 2
    assert load_saved(str(folder)).config.num_hidden_layers == 2
