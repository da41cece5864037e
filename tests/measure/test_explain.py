"""Where time goes: by the module or operation that ran, adding up to the total; and what is advised."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from prune_core import measure
from prune_core.measure.explain import (
    BETWEEN,
    KINDS,
    Breakdown,
    Explanation,
    _operations,
    _profiled,
    _spent,
    explain,
    explain_folders,
)
from prune_core.recipe import MeasureSection
from prune_core.testing.tiny import tiny_model


def bert(**sizes):
    fields = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 1} | sizes
    return BertModel(BertConfig(**fields)).eval()


def llama(**sizes):
    fields = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8} | sizes
    return LlamaForCausalLM(LlamaConfig(**fields)).eval()


@pytest.mark.parametrize(
    ("kind", "model", "batch", "length"),
    [
        ("linear", lambda: bert(hidden_size=256, intermediate_size=2048), 4, 32),
        ("attention core", lambda: bert(hidden_size=16, num_attention_heads=8, intermediate_size=16), 1, 512),
        ("activation", lambda: bert(hidden_size=8, intermediate_size=2048, hidden_act="gelu_new"), 4, 64),
        ("norm", lambda: llama(hidden_size=4096, num_hidden_layers=0, vocab_size=2), 8, 64),
        ("other linear", lambda: llama(hidden_size=32, intermediate_size=8, vocab_size=20_000), 2, 32),
    ],
)
def test_the_kind_that_dominates_is_found(kind: str, model, batch: int, length: int):
    one = model()
    found = explain(one, one, MeasureSection(batch_size=batch, length=length, rounds=3), "cpu")
    for side in (found.model, found.baseline):
        assert tuple(side.kinds) == KINDS
        assert sum(side.kinds.values()) == pytest.approx(side.seconds)
        worked = {name: seconds for name, seconds in side.kinds.items() if name != BETWEEN}
        assert max(worked, key=worked.__getitem__) == kind
        assert worked[kind] > 0.5 * sum(worked.values())
    assert not one._forward_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())


@pytest.mark.parametrize("family", ["vit", "t5", "gpt2", "whisper", "modernbert", "swin"])
def test_families_of_all_kinds_are_explained(family: str):
    model = tiny_model(family)
    found = explain(model, model, MeasureSection(batch_size=1, length=8, rounds=3), "cpu")
    for kind in ("linear", "attention core", "norm", "activation"):
        assert found.model.kinds[kind] > 0, kind
    assert found.model.operations > 20


def test_what_is_profiled_is_computed_as_what_is_timed():
    """In full float32, whatever the process was set to."""
    seen = set()
    model = bert(hidden_size=16, intermediate_size=16)
    model.register_forward_pre_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        explain(model, model, MeasureSection(batch_size=1, length=4, rounds=3), "cpu")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {"highest"}


def launched(name: str, *kernels: tuple[str, float], parent: FunctionEvent | None = None) -> FunctionEvent:
    """What the profiler says of an operation with these kernels, by name and microseconds."""
    event = FunctionEvent(id=0, name=name, thread=0, start_us=0, end_us=50, use_device="cuda")
    for kernel, duration in kernels:
        event.append_kernel(kernel, 0, duration)
    if parent is not None:
        event.set_cpu_parent(parent)
        parent.append_cpu_child(event)
    return event


def test_the_shadow_of_a_mark_on_the_gpu_is_no_kernel():
    mark = launched("prune: linear", ("prune: linear", 900.0))
    events = [mark, launched("aten::addmm", ("gemm", 30.0), ("reduce", 10.0), parent=mark)]
    assert _operations(events, on_cuda=True) == 2
    assert {kind: spent for kind, spent in _spent(events, on_cuda=True).items() if spent} == {
        "linear": pytest.approx(40e-6)
    }


def test_operations_are_counted_in_a_pass_behind_the_first(monkeypatch: pytest.MonkeyPatch):
    """In the first one the profiler of CUDA warms up, and misses some."""
    model, seen = bert(hidden_size=16, intermediate_size=16), []

    def profiled(*given):
        seen.append(_profiled(*given))
        return seen[-1] if len(seen) > 1 else []

    monkeypatch.setattr("prune_core.measure.explain._profiled", profiled)
    assert explain(model, model, MeasureSection(batch_size=1, length=4, rounds=3), "cpu").baseline.operations > 10


def test_a_busy_hour_is_no_time_between_operations(monkeypatch: pytest.MonkeyPatch):
    """All was ten times as slow while it was timed as it is while it is profiled."""

    def busy(*given):
        found = measure.compare(*given)
        slow = replace(found.model.timing, p50=10 * found.model.timing.p50)
        return replace(found, model=replace(found.model, timing=slow), baseline=replace(found.baseline, timing=slow))

    monkeypatch.setattr("prune_core.measure.explain.compare", busy)
    model = bert(hidden_size=256, intermediate_size=1024)
    found = explain(model, model, MeasureSection(batch_size=4, length=32, rounds=3), "cpu").model
    assert found.share(BETWEEN) < 0.7
    assert sum(found.kinds.values()) == pytest.approx(found.seconds)


def explained(model: dict[str, float], baseline: dict[str, float] | None = None, **changes) -> Explanation:
    """By milliseconds of the kinds; what is left out is 0."""
    small = tiny_model(layers=1)
    comparison = measure.compare(small, small, MeasureSection(batch_size=4, length=8, rounds=3), "cpu")

    def side(name: str, kinds: dict[str, float]) -> Breakdown:
        whole = {kind: kinds.get(kind, 0.0) * 1e-3 for kind in KINDS}
        return Breakdown(name, sum(whole.values()), whole, 100)

    comparison = replace(comparison, speedup=2.0, speedup_low=1.9, speedup_high=2.1, significant=True)
    fields = {"weight_ratio": None, "ragged": (), **changes}
    return Explanation(side("model", model), side("dense", baseline or model), comparison, **fields)


def test_what_can_still_be_won():
    found = explained({"linear": 20, "attention core": 10, "norm": 10, "other operations": 10}, {"linear": 100})
    assert found.winnable == pytest.approx(0.6)
    assert found.limit == pytest.approx(100 / 20)
    assert found.advice[-1].startswith("60% of the time is in what pruning makes smaller")
    assert "2.00x (1.90 to 2.10) now, 5.0x if all of it were gone" in found.advice[-1]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["winnable"] == pytest.approx(0.6)
    assert data["advice"] == list(found.advice)


@pytest.mark.parametrize(
    ("kinds", "first"),
    [
        ({"linear": 60, "between operations": 40}, "launch-bound at batch 4"),
        ({"linear": 1}, "launch-bound at batch 4: 100 operations of 10 microseconds"),
        ({"linear": 60, "attention core": 40}, "attention-bound: 40% of the time"),
        ({"linear": 60, "norm": 20}, "norm: 25% of the time: simplify.no_norm"),
        ({"linear": 60, "embedding": 40}, "embedding: 40% of the time"),
        ({"linear": 10, "other linear": 40}, "other linear: 80% of the time: heads and projections"),
        ({"linear": 60, "other operations": 40}, "other operations: 40% of the time: sums"),
    ],
)
def test_advice_by_what_bounds_the_model(kinds: dict[str, float], first: str):
    assert explained(kinds).advice[0].startswith(first)


def test_linears_that_are_smaller_but_not_faster():
    kinds = {"model": {"linear": 50}, "baseline": {"linear": 100}}
    ragged = explained(**kinds, weight_ratio=4.0, ragged=(13, 37)).advice[0]
    assert ragged.startswith("ragged sizes: linears are 4.0x smaller and 2.0x faster, and 2 of their sizes")
    small = explained(**kinds, weight_ratio=4.0).advice[0]
    assert small.startswith("small matrices: ")
    assert len(explained(**kinds, weight_ratio=2.2, ragged=(13,)).advice) == 1


def test_sizes_that_are_no_multiples_of_eight(tmp_path: Path):
    for name, neurons in (("dense", 64), ("small", 13)):
        bert(hidden_size=16, intermediate_size=neurons).save_pretrained(tmp_path / name)
    section = MeasureSection(batch_size=1, length=4, rounds=3)
    found = explain_folders(str(tmp_path / "small"), str(tmp_path / "dense"), section, "cpu")
    assert found.ragged == (13,)
    assert found.weight_ratio == pytest.approx((4 * 16 * 16 + 2 * 16 * 64) / (4 * 16 * 16 + 2 * 16 * 13))
    assert found.model.name == str(tmp_path / "small")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_explanation_on_cuda(dtype):
    model = bert(hidden_size=1024, intermediate_size=4096, num_attention_heads=16)
    found = explain(model, model, MeasureSection(batch_size=128, length=512, rounds=5, dtype=dtype), "cuda")
    assert sum(found.model.kinds.values()) == pytest.approx(found.model.seconds)
    assert found.model.kinds["linear"] > 0.5 * found.model.seconds
    assert torch.cuda.get_device_name() == found.comparison.machine.device
