"""A model against its baseline: time, throughput, parameters, memory, file size, FLOPs.

Both sides run with the same settings, interleaved round by round after a warm-up, in eval and inference mode. The
speed-up is the median of the paired ratios of the rounds, with a 95 % bootstrap interval.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.measure.flops import count_flops
from prune_core.measure.host import Machine, machine, pick_device
from prune_core.measure.inputs import dummy_inputs, placed
from prune_core.measure.memory import activation_bytes, folder_size, weight_bytes
from prune_core.measure.timing import Timing, paired_ratio, time_calls
from prune_core.pretrained import load_saved
from prune_core.recipe import MeasureSection

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Side:
    """One of the two models. `weight_bytes`: parameters and buffers in memory; `activation_bytes`: peak on top of them
    in one forward (CUDA only); `file_bytes`: weight files on disk, where the folder is known; `flops`: of one batch.
    """

    name: str
    timing: Timing
    parameters: int
    flops: int
    weight_bytes: int
    activation_bytes: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Comparison:
    """A model against its baseline. `speedup` is how many times faster `model` is (95 % interval: low, high);
    `flop_ratio` how many times fewer FLOPs it needs.
    """

    model: Side
    baseline: Side
    speedup: float
    speedup_low: float
    speedup_high: float
    flop_ratio: float
    settings: dict[str, Any]
    machine: Machine

    def with_folders(self, model: Path, baseline: Path) -> "Comparison":
        """The same with the file sizes of two folders; None stays where one is no folder (a hub name)."""
        sizes = [folder_size(path) if path.is_dir() else None for path in (model, baseline)]
        return replace(
            self,
            model=replace(self.model, file_bytes=sizes[0]),
            baseline=replace(self.baseline, file_bytes=sizes[1]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, seconds and bytes throughout."""
        return asdict(self)


def compare_folders(
    model: str, baseline: str, section: MeasureSection, device: str = "auto", dtype: DType = "float32"
) -> Comparison:
    """What `prune bench` reports: two folders or hub names, loaded as the classes that saved them, and compared.

    `device` is auto, cpu or cuda. ModelError when one cannot be loaded, RecipeError when the settings do not fit.
    """
    sides = [load_saved(path) for path in (model, baseline)]
    comparison = compare(sides[0], sides[1], section, device, dtype)
    named = replace(
        comparison,
        model=replace(comparison.model, name=model),
        baseline=replace(comparison.baseline, name=baseline),
    )
    return named.with_folders(Path(model), Path(baseline))


def compare(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    section: MeasureSection,
    device: str = "auto",
    dtype: DType = "float32",
) -> Comparison:
    """Time `model` and `baseline` on the same random batch. Both are left as they are: a model that is elsewhere or of
    another dtype is copied. RecipeError when the length exceeds what a model takes or there is no CUDA device.
    """
    target = pick_device(device)
    models = {"model": _settled(model, target, dtype), "baseline": _settled(baseline, target, dtype)}
    batch = {name: placed(dummy_inputs(m, section.batch_size, section.length), m) for name, m in models.items()}
    with _evaluating(*models.values()):
        calls = {name: _forward(m, batch[name]) for name, m in models.items()}
        seconds = time_calls(calls, section.rounds, target)
        sides = {
            name: Side(
                name=name,
                timing=Timing.of(seconds[name], section.batch_size),
                parameters=sum(p.numel() for p in m.parameters()),
                flops=count_flops(m, batch[name]),
                weight_bytes=weight_bytes(m),
                activation_bytes=activation_bytes(calls[name], target),
            )
            for name, m in models.items()
        }
    speedup, low, high = paired_ratio(seconds["baseline"], seconds["model"])
    return Comparison(
        model=sides["model"],
        baseline=sides["baseline"],
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        flop_ratio=sides["baseline"].flops / sides["model"].flops,
        settings={**section.model_dump(), "dtype": dtype},
        machine=machine(target),
    )


def _settled(model: PreTrainedModel, device: torch.device, dtype: DType) -> PreTrainedModel:
    wanted = getattr(torch, dtype)
    if model.device.type == device.type and model.dtype == wanted:
        return model
    moved = copy.deepcopy(model)
    nn.Module.to(moved, device=device, dtype=wanted)
    return moved


@contextmanager
def _evaluating(*models: PreTrainedModel) -> Iterator[None]:
    were_training = [model.training for model in models]
    for model in models:
        model.train(False)
    try:
        yield
    finally:
        for model, training in zip(models, were_training, strict=True):
            model.train(training)


def _forward(model: PreTrainedModel, batch: dict[str, Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(**batch)

    return call
