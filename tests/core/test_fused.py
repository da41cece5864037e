"""Where several matrices are one, or weights are [in, out]: what cannot be done there is refused in one line."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from prune_block.config import BlockConfig
from prune_block.strategy import BlockPruning
from prune_core.architectures.bert import BERT
from prune_core.compaction import compact
from prune_core.errors import RecipeError, StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.rescue import load_pruned, masks_of_zeros
from prune_core.kit.masked import MaskedConv1D
from prune_core.rewriting.quantization import need_linears
from prune_core.structure import Attention, discover
from prune_core.testing.loop import Loop, logits
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_model
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured
from prune_unstructured.config import UnstructuredConfig
from prune_unstructured.strategy import Unstructured


@pytest.mark.parametrize("family", ["gpt2", "modernbert"])
def test_a_joint_mask_needs_a_matrix_of_each(family):
    strategy = BlockPruning(BlockConfig(density=0.5, attention_block=(8, 8), joint_attention=True))
    with pytest.raises(
        StructureError, match=r"layer\.0\.attention has query, key and value in one matrix, .*turn joint"
    ):
        Loop(tiny_model(family), strategy, 2)


def test_a_pattern_along_the_inputs_is_none_of_a_conv1d():
    with pytest.raises(StructureError, match=r"2:4 is a pattern along the inputs .* a Conv1D holds \[in, out\]"):
        Loop(tiny_model("gpt2"), Unstructured(UnstructuredConfig(pattern="2:4")), 2)
    masks = Loop(tiny_model("gpt_neox"), Unstructured(UnstructuredConfig(pattern="2:4")), 2).train().strategy.finish()
    assert masks.density() == 0.5


def test_int8_is_for_linears():
    need_linears(structure_of(tiny_model("gpt_neox")))
    with pytest.raises(RecipeError, match=r"quantize: layer\.0\.attention of this gpt2 is made of Conv1Ds"):
        need_linears(structure_of(tiny_model("gpt2")))


def test_heads_that_are_mixed_are_not_removed():
    """DeBERTa's talking heads: attention of one head goes into the others."""
    model = tiny_model("deberta", talking_head=True)
    compact(model, unit_masks(model, lambda unit: None if isinstance(unit, Attention) else [0]))
    with pytest.raises(StructureError, match=r"talking_head in its configuration.*exclude: ..\*\.attention"):
        compact(model, unit_masks(model, lambda unit: [1] if isinstance(unit, Attention) else None))


def test_blocks_are_of_outputs_and_inputs_in_a_conv1d_too():
    masks = Loop(
        tiny_model("gpt2"), BlockPruning(BlockConfig(density=0.5, attention_block=(8, 4), ffn_block=(2, 16))), 2
    ).strategy.masks()
    written = {name.split(".h.0.")[1]: str(mask.granularity) for name, mask in masks.items() if ".h.0." in name}
    assert written["attn.c_attn.weight"] == written["attn.c_proj.weight"] == "block:4x8"
    assert written["mlp.c_fc.weight"] == written["mlp.c_proj.weight"] == "block:16x2"


def test_a_layout_that_calls_one_matrix_three_is_no_family():
    """BERT's query alone has no room for keys and values beside its queries."""
    one = replace(BERT.stacks[0].attention["attention"], key="attention.self.query", value="attention.self.query")
    wrong = replace(BERT, stacks=(replace(BERT.stacks[0], attention={"attention": one}),))
    with pytest.raises(
        StructureError, match=r"self\.query gives 32 features, which is no number of heads of 8 .* the 4"
    ):
        discover(tiny_model("bert"), [wrong])


def test_gates_multiply_what_the_consumers_read_and_nothing_else():
    loop = Loop(tiny_model("gpt2"), Structured(StructuredConfig(density=0.5)), 2)
    layers = {name: one for name, one in loop.model.named_modules() if isinstance(one, MaskedConv1D)}
    assert {name.split(".h.")[1] for name, one in layers.items() if one._masking.scales} == {
        f"{layer}.{part}.c_proj" for layer in (0, 1) for part in ("attn", "mlp")
    }


def test_a_gpt2_of_2021(tmp_path):
    """As transformers 4 left it: a head's columns are not there in each third of c_attn, nor its rows of c_proj."""
    model = tiny_model("gpt2")
    kept = {"layer.0.attention": [0, 2], "layer.1.attention": [3]}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for layer, heads in enumerate(kept.values()):
        path = f"transformer.h.{layer}.attn"
        lines = torch.tensor([8 * head + i for head in heads for i in range(8)])
        thirds = torch.cat([lines, lines + 32, lines + 64])
        state[f"{path}.c_attn.weight"] = state[f"{path}.c_attn.weight"][:, thirds].clone()
        state[f"{path}.c_attn.bias"] = state[f"{path}.c_attn.bias"][thirds].clone()
        state[f"{path}.c_proj.weight"] = state[f"{path}.c_proj.weight"][lines].clone()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pruned_heads"] = {"0": [1, 3], "1": [0, 1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    rescued = load_pruned(str(tmp_path)).eval()
    unit_masks(model, lambda unit: kept.get(unit.key)).bake(model)
    torch.testing.assert_close(logits(rescued), logits(model), atol=1e-5, rtol=0)
    compaction = compact(rescued, masks_of_zeros(rescued, structure_of(rescued)))
    assert {unit.key: list(unit.kept) for unit in compaction.units if unit.key in kept} == kept
