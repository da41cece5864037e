"""What is built on from_pretrained takes a compact model as any other: adapters of peft, int8 weights."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from transformers import AutoModelForSequenceClassification

from prune_core.errors import StructureError
from prune_core.folders.loading import structure_of
from prune_core.testing.tiny import tiny_inputs, tiny_model

LOADED = AutoModelForSequenceClassification.from_pretrained


def logits(model):
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


def adapted(model):
    """Trained for a step, so that the adapters, which start at zero, do something."""
    torch.manual_seed(0)
    found = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))
    optimizer = torch.optim.SGD([p for p in found.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        found(**tiny_inputs(model)).loss.backward()
        optimizer.step()
    return found.eval()


def test_lora_on_a_compact_model(compact_folder, tmp_path):
    """Adapters of the sizes that each layer has; saved alone, and put on the folder again."""
    folder = compact_folder("bert", sparse=False).folder
    before = logits(LOADED(folder).eval())
    found = adapted(LOADED(folder).eval())
    expected = logits(found)
    assert not torch.equal(expected, before)
    found.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(LOADED(folder), tmp_path).eval()
    assert torch.equal(logits(again), expected)


def test_merged_lora_is_a_compact_folder(compact_folder, tmp_path):
    merged = adapted(LOADED(compact_folder("bert", sparse=False).folder).eval()).merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert torch.equal(logits(LOADED(tmp_path).eval()), logits(merged.eval()))


@pytest.mark.parametrize("target", ["query", "intermediate.dense"])
def test_adapters_are_to_be_merged_before_pruning(target):
    model = tiny_model("bert")
    found = get_peft_model(model, LoraConfig(r=2, target_modules=[target]))
    said = rf"{target} carries a PEFT adapter: merge it first \(merge_and_unload\(\)\)"
    with pytest.raises(StructureError, match=said):
        structure_of(model)
    assert structure_of(found.merge_and_unload()).sizes()["layer.0.ffn"]


@pytest.mark.parametrize("config", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_int8_afterwards(config, sparse, compact_folder):
    """Quantized after loading: a folder has one quantization_config only, which is the compact one's."""
    model = LOADED(compact_folder("bert", sparse=sparse).folder).eval()
    before = logits(model)
    quantize_(model.base_model, config(version=2))
    kinds = {type(m.weight).__name__ for m in model.base_model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {"Int8Tensor"}
    torch.testing.assert_close(logits(model), before, atol=0.05 * float(before.abs().max()), rtol=0.05)
