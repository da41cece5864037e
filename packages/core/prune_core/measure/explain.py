"""Why a model is not faster: its time and its baseline's by kind of work, what can still be won, and advice in words.

torch.profiler runs both models, while modules of a kind mark what runs in them. An operation belongs to the module
that ran it (linear, norm, activation, embedding, attention core), or else to what it is itself. The total is that of
the model without a profiler; what no operation accounts for has passed between them: Python on the CPU, an idle GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune_core.arithmetic import arithmetic
from prune_core.errors import StructureError
from prune_core.folders.loading import structure_of
from prune_core.folders.pretrained import load_saved
from prune_core.measure.advice import advise
from prune_core.measure.comparison import Comparison, compare, fitting
from prune_core.measure.forwards import evaluating
from prune_core.measure.grids import Side, settled
from prune_core.measure.host import pick_device
from prune_core.measure.inputs import dummy_inputs, placed
from prune_core.measure.kinds import (
    ACTIVATION,
    ATTENTION,
    BETWEEN,
    EMBEDDING,
    KINDS,
    LINEAR,
    NORM,
    OTHER,
    OTHER_LINEAR,
    PRUNED,
)
from prune_core.measure.timing import time_once
from prune_core.recipe import MeasureSection

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

    from prune_core.structure import ModelStructure

_MARK = "prune: "
_PASSES = 7
_NAMES = {
    ATTENTION: ("scaled_dot_product_attention", "softmax", "_softmax"),
    ACTIVATION: ("gelu", "relu", "silu", "mish", "hardswish", "elu", "leaky_relu", "softplus", "sigmoid", "tanh"),
    NORM: ("layer_norm", "rms_norm", "group_norm", "batch_norm"),
    EMBEDDING: ("embedding", "embedding_bag"),
    OTHER_LINEAR: ("linear", "addmm", "matmul", "bmm", "mm", "baddbmm", "conv1d", "conv2d"),
}
_BY_OPERATION = {f"aten::{name}": kind for kind, names in _NAMES.items() for name in names}
_PRODUCTS = {f"aten::{name}" for name in ("matmul", "bmm", "baddbmm")}
"""Of an attention core where they run in one."""


@dataclass(frozen=True)
class Breakdown:
    """Seconds of one batch by kind, which add up to `seconds`, and the operations that it takes (kernels on CUDA)."""

    name: str
    seconds: float
    kinds: Mapping[str, float]
    operations: int

    def share(self, *kinds: str) -> float:
        """The part of the time that these kinds take."""
        return sum(self.kinds[kind] for kind in kinds) / self.seconds


@dataclass(frozen=True)
class Explanation:
    """A model against its baseline. `weight_ratio`: how many times fewer weights the model has in linears that are
    pruned; `ragged`: heads' widths and neurons' counts that are no multiples of 8.
    """

    model: Breakdown
    baseline: Breakdown
    comparison: Comparison
    weight_ratio: float | None
    ragged: tuple[int, ...]

    @property
    def winnable(self) -> float:
        """The part of the model's time that pruning can still make smaller."""
        return self.model.share(*PRUNED)

    @property
    def limit(self) -> float:
        """The speed-up if all of that were gone."""
        return self.baseline.seconds / max(self.model.seconds * (1 - self.winnable), 1e-9)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, in words, the most useful first."""
        return advise(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"winnable": self.winnable, "limit": self.limit, "advice": list(self.advice)}


def explain(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    section: MeasureSection,
    device: str = "auto",
) -> Explanation:
    """Explain the times of `model` and `baseline` on one random batch. Both are left as they are.

    RecipeError when the length exceeds what a model takes or there is no CUDA device.
    """
    comparison = compare(model, baseline, section, device)
    structures = {"model": _structure(model), "baseline": _structure(baseline)}
    target, found = pick_device(device), {}
    for side, one in ((comparison.baseline, baseline), (comparison.model, model)):
        there = settled(one, target, section.dtype)
        batch = placed(dummy_inputs(there, section.batch_size, section.length), there)
        with arithmetic(section.dtype), evaluating(there):
            kinds = _kinds_of(there, structures[side.name])
            found[side.name] = _breakdown(side, there, batch, kinds)
    return Explanation(
        model=found["model"],
        baseline=found["baseline"],
        comparison=comparison,
        weight_ratio=_weight_ratio(model, baseline, structures),
        ragged=_ragged(structures["model"]),
    )


def explain_folders(model: str, baseline: str, section: MeasureSection, device: str = "auto") -> Explanation:
    """The same of two folders or hub names, loaded as the classes that saved them. ModelError when one cannot be."""
    small, dense = load_saved(model), load_saved(baseline)
    if "length" not in section.model_fields_set:
        section = fitting(fitting(section, dense), small)
    found = explain(small, dense, section, device)
    return replace(found, model=replace(found.model, name=model), baseline=replace(found.baseline, name=baseline))


def _structure(model: PreTrainedModel) -> ModelStructure | None:
    try:
        return structure_of(model)
    except StructureError:
        return None


def _ragged(structure: ModelStructure | None) -> tuple[int, ...]:
    if structure is None:
        return ()
    widths = [unit.heads * unit.head_size for unit in structure.attention] + [unit.size for unit in structure.ffn]
    return tuple(width for width in widths if width % 8)


def _weight_ratio(
    model: PreTrainedModel, baseline: PreTrainedModel, structures: Mapping[str, ModelStructure | None]
) -> float | None:
    own, dense = structures["model"], structures["baseline"]
    if own is None or dense is None or not (left := own.size(model)):
        return None
    return dense.size(baseline) / left


def _breakdown(side: Side, model: PreTrainedModel, batch: Mapping[str, Any], kinds: Mapping[str, str]) -> Breakdown:
    """The time of a side by kind. What lies between operations is seen pass by pass, each beside one that is not
    profiled: other work on the machine makes both slower.
    """
    on_cuda, seconds = model.device.type == "cuda", side.timing.p50
    with torch.inference_mode(), _marked(model, kinds):
        model(**batch)
        passes = [(time_once(partial(model, **batch), model.device), _profiled(model, batch)) for _ in range(_PASSES)]
    spent = [_spent(events, on_cuda) for _, events in passes]  # medians, for a pass that is disturbed says nothing
    gaps = [max(1 - sum(one.values()) / whole, 0.0) for one, (whole, _) in zip(spent, passes, strict=True)]
    typical, between = {kind: statistics.median(one[kind] for one in spent) for kind in KINDS}, statistics.median(gaps)
    total = sum(typical.values())
    scale = (1 - between) * seconds / total if total else 0.0
    shares = {kind: scale * typical[kind] for kind in KINDS}
    shares[BETWEEN] = max(seconds - sum(shares.values()), 0.0)
    return Breakdown(side.name, seconds, shares, _operations(passes[-1][1], on_cuda))


def _profiled(model: PreTrainedModel, batch: Mapping[str, Any]) -> list[FunctionEvent]:
    """What ran in one pass."""
    on_cuda = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]) as profiler:
        model(**batch)
        if on_cuda:
            torch.cuda.synchronize()
    return [event for event in profiler.events() or [] if event.device_type == DeviceType.CPU]


def _spent(events: Sequence[FunctionEvent], on_cuda: bool) -> dict[str, float]:
    """Seconds of one pass by kind: of each operation without those that it calls, of its kernels on CUDA."""
    spent = dict.fromkeys(KINDS, 0.0)
    known: dict[int, tuple[str, bool]] = {}
    for event in events:
        if not event.name.startswith(_MARK):
            micro = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            spent[_kind(event, known)[0]] += micro * 1e-6
    return spent


def _operations(events: Sequence[FunctionEvent], on_cuda: bool) -> int:
    """Kernels of one pass on CUDA; operations that the model calls, not those inside of them, on the CPU.

    A mark is none, and has none: the profiler gives it a shadow among the kernels, as long as those that ran in it.
    """
    own = [event for event in events if not event.name.startswith(_MARK)]
    if on_cuda:
        return sum(len(event.kernels) for event in own)
    return sum(event.cpu_parent is None or event.cpu_parent.name.startswith(_MARK) for event in own)


def _kind(event: FunctionEvent, known: dict[int, tuple[str, bool]]) -> tuple[str, bool]:
    """The kind of an event, and whether it is settled for all that runs in it."""
    if id(event) not in known:
        known[id(event)] = _found(event, known)
    return known[id(event)]


def _found(event: FunctionEvent, known: dict[int, tuple[str, bool]]) -> tuple[str, bool]:
    if event.name.startswith(_MARK):
        kind = event.name.removeprefix(_MARK)
        return kind, kind != ATTENTION
    kind, settled_above = (OTHER, False) if event.cpu_parent is None else _kind(event.cpu_parent, known)
    if settled_above or event.name not in _BY_OPERATION:
        return kind, settled_above
    return ATTENTION if kind == ATTENTION and event.name in _PRODUCTS else _BY_OPERATION[event.name], True


@contextmanager
def _marked(model: nn.Module, kinds: Mapping[str, str]) -> Iterator[None]:
    """Modules of a kind say so to the profiler while they run."""
    handles = []
    for name, kind in kinds.items():
        enter, leave = _mark(kind)
        module = model.get_submodule(name)
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mark(kind: str) -> tuple[Callable[..., None], Callable[..., None]]:
    open_marks: list[record_function] = []

    def enter(*_: Any) -> None:
        open_marks.append(record_function(f"{_MARK}{kind}"))
        open_marks[-1].__enter__()

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    return enter, leave


def _kinds_of(model: nn.Module, structure: ModelStructure | None) -> dict[str, str]:
    """Path -> kind of the modules that have one. Without a structure every linear is one that could be pruned."""
    pruned = None if structure is None else structure.linears().keys()
    cores = None if structure is None else {unit.core for unit in structure.attention if unit.heads}
    found = {name: _kind_of(name, module, pruned, cores) for name, module in model.named_modules()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind_of(name: str, module: nn.Module, pruned: Set[str] | None, cores: Set[str] | None) -> str | None:
    if isinstance(module, nn.Linear | Conv1D):
        return LINEAR if pruned is None or name in pruned else OTHER_LINEAR
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return OTHER_LINEAR
    if isinstance(module, nn.Embedding):
        return EMBEDDING
    if "Norm" in type(module).__name__:
        return NORM
    if type(module).__module__ in ("torch.nn.modules.activation", "transformers.activations"):
        return ACTIVATION
    return ATTENTION if (name in cores if cores is not None else _looks_like_attention(module)) else None


def _looks_like_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__ and any(
        isinstance(child, nn.Linear | Conv1D) for child in module.children()
    )
