"""Honest measurement of a model against its baseline: time, throughput, parameters, memory, file size, FLOPs.

Both sides run with the same settings, interleaved round by round after a warm-up, in eval and inference mode. The
speed-up is the median of the paired ratios of the rounds, with a 95 % bootstrap interval.
"""

import copy
import inspect
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from prune_core.errors import ModelError, RecipeError
from prune_core.pretrained import load_saved, usable_length
from prune_core.recipe import MeasureSection

DType = Literal["float32", "bfloat16", "float16"]

_WARM_UP_ROUNDS = 3
_BOOTSTRAP_SAMPLES = 2000
_WEIGHT_FILES = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Timing:
    """Seconds a batch over the rounds (median, 10th and 90th percentile), and examples a second at the median."""

    median: float
    p10: float
    p90: float
    throughput: float

    @classmethod
    def of(cls, seconds: Sequence[float], batch_size: int) -> "Timing":
        """The summary of one number of seconds a round."""
        median = statistics.median(seconds)
        p10, p90 = np.percentile(seconds, [10, 90])
        return cls(median, float(p10), float(p90), batch_size / median)


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
class Machine:
    """Where it was measured."""

    device: str
    cpu: str
    cores: int
    threads: int
    torch: str
    transformers: str
    python: str


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
                weight_bytes=_weight_bytes(m),
                activation_bytes=_activation_bytes(calls[name], target),
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


def dummy_inputs(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, Tensor]:
    """A random batch on the CPU, the same at every call: ids and a mask of ones [batch_size, length] for text (of one
    choice each, [batch_size, 1, length], for multiple choice; as many ids again for a decoder beside an encoder), float
    pixels [batch_size, channels, height, width] of the configured size for images (`length` is then of no account); a
    model that takes both gets both.

    RecipeError when `length` exceeds the model's positions; ModelError when the model takes neither kind of input.
    """
    kinds = {"input_ids": _text_inputs, "pixel_values": _image_inputs}
    if model.main_input_name not in kinds:
        raise ModelError(
            f"{type(model).__name__} takes {model.main_input_name}: no input for measuring it is known, "
            f"only {' and '.join(kinds)}"
        )
    generator = torch.Generator().manual_seed(0)
    return kinds[model.main_input_name](model, batch_size, length, generator)


def time_calls(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` interleaved rounds, after a warm-up; the order alternates by round.

    Times come from CUDA events where `device` is a CUDA device, from the wall clock elsewhere.
    """
    timer = _cuda_seconds if device is not None and device.type == "cuda" else _wall_seconds
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(-_WARM_UP_ROUNDS, rounds):
        for name in list(calls) if index % 2 else reversed(list(calls)):
            elapsed = timer(calls[name])
            if index >= 0:
                seconds[name].append(elapsed)
    return seconds


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios round by round, and its 95 % bootstrap interval (low, high)."""
    ratios = np.asarray(numerator) / np.asarray(denominator)
    draws = np.random.default_rng(0).choice(ratios, (_BOOTSTRAP_SAMPLES, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def count_flops(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
    """Floating-point operations of one forward: two a multiply-add, matrix products only, attention included."""
    # the counter has no formula for the CPU's fused attention: the unfused one is the same sum
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


def folder_size(path: Path) -> int:
    """Bytes of the weight files of a model folder; ModelError when there are none."""
    files = [file for pattern in _WEIGHT_FILES for file in path.glob(pattern)]
    if not files:
        raise ModelError(f"{path} holds no weights: no {' or '.join(_WEIGHT_FILES)} was found")
    return sum(file.stat().st_size for file in files)


def pick_device(device: str) -> torch.device:
    """The device that auto, cpu or cuda stands for; RecipeError for cuda where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("device: cuda was asked for, and torch finds no CUDA device; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def machine(device: torch.device) -> Machine:
    """This machine and the settings that timings depend on."""
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
    )


def _text_inputs(model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    config = model.config.get_text_config()
    longest = usable_length(config)
    if longest is not None and length > longest:
        raise RecipeError(
            f"measure.length: {length} tokens were asked for, {type(model).__name__} takes {longest} at most"
        )
    ids = torch.randint(config.vocab_size, (batch_size, length), generator=generator)
    if type(model).__name__.endswith("ForMultipleChoice"):
        ids = ids.unsqueeze(1)  # how many choices there are is up to the data; a text costs the same in any number
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids.roll(1, dims=1)
        _end(ids, model.config.eos_token_id)
    if hasattr(model.config, "vision_config"):
        inputs |= _image_inputs(model, batch_size, length, generator)
    return inputs


def _end(ids: Tensor, token: int | None) -> None:
    """End every text by this token, and let it be nowhere else: BART classifies what it finds at the last one."""
    if token is not None:
        ids[ids == token] = max(token - 1, 0)
        ids[:, -1] = token


def _image_inputs(
    model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    config = getattr(model.config, "vision_config", model.config)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.randn(batch_size, config.num_channels, height, width, generator=generator)}


def _settled(model: PreTrainedModel, device: torch.device, dtype: DType) -> PreTrainedModel:
    wanted = getattr(torch, dtype)
    if model.device.type == device.type and model.dtype == wanted:
        return model
    moved = copy.deepcopy(model)
    nn.Module.to(moved, device=device, dtype=wanted)
    return moved


def placed(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """The batch where the model is, floats in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


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


def _wall_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _weight_bytes(model: PreTrainedModel) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activation_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
