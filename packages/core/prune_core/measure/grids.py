"""Several models against a baseline over a grid of settings: time, throughput, FLOPs, memory.

All of them run with the same settings, interleaved round by round after a warm-up, in eval and inference mode. A
speed-up is the median of the paired ratios of the rounds, with a 95 % bootstrap interval.
"""

import copy
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.arithmetic import arithmetic, computed_in
from prune_core.bench.grid import EXPORTED, TRACED, Attention, Grid, Runtime, Setting
from prune_core.errors import RecipeError, brief, foreign
from prune_core.measure.calls import attending, check_generates, inferring, make_call
from prune_core.measure.flops import flops_of
from prune_core.measure.forwards import evaluating
from prune_core.measure.host import Machine, computing_with, machine, pick_device
from prune_core.measure.inputs import check_room, dummy_inputs, placed, ragged_inputs, unpadded
from prune_core.measure.memory import activation_bytes, weight_bytes
from prune_core.measure.runtimes import DENSE, Formed, LayerForm, Runs, opener
from prune_core.measure.timing import Prepared, Ratio, Timing, paired_ratio, time_calls
from prune_core.recipe import DType

_RAGGED_BATCHES = 10
"""Batches of a data set's lengths: the rounds take them in turn."""


@dataclass(frozen=True)
class Side:
    """One of the models. `weight_bytes`: parameters and buffers in memory; `activation_bytes`: peak on top of them in
    one call, None for a CUDA graph or an export, which hold their own; `file_bytes`: weight files on disk, where the
    folder is known; `flops`: of one batch, the mean over batches of several lengths; `forms`: what its linears compute
    as where zeros may be skipped, None elsewhere.
    """

    name: str
    timing: Timing
    parameters: int
    flops: int
    weight_bytes: int
    activation_bytes: int | None = None
    file_bytes: int | None = None
    forms: tuple[LayerForm, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One setting: the sides, the baseline first, and how many times faster each of the others is.

    `seconds` are those of each side in each of the rounds.
    """

    setting: Setting
    sides: tuple[Side, ...]
    speedups: tuple[Ratio, ...]
    seconds: tuple[tuple[float, ...], ...]

    @property
    def flop_ratios(self) -> tuple[float, ...]:
        """How many times fewer FLOPs than the baseline each of the others needs."""
        return tuple(self.sides[0].flops / side.flops for side in self.sides[1:])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, seconds and bytes throughout."""
        others = zip(self.sides[1:], self.speedups, self.flop_ratios, strict=True)
        models = [{**asdict(side), **ratio.to_dict(), "flop_ratio": flops} for side, ratio, flops in others]
        return {**asdict(self.setting), "baseline": asdict(self.sides[0]), "models": models}


@dataclass(frozen=True)
class Failure:
    """A setting that could not be measured, and why."""

    setting: Setting
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self.setting), "error": self.error}


class ToDict(Protocol):
    """What makes plain data for JSON of itself."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""


R = TypeVar("R", bound=ToDict, covariant=True)


@dataclass(frozen=True)
class Bench(Generic[R]):
    """All rows, where they were measured, and the settings that failed."""

    rows: tuple[R, ...]
    grid: Grid
    machine: Machine
    failed: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = {name: [one.to_dict() for one in getattr(self, name)] for name in ("rows", "failed")}
        return {"grid": self.grid.model_dump(mode="json"), "machine": asdict(self.machine), **found}


def bench(
    models: Mapping[str, PreTrainedModel], grid: Grid, device: str = "auto", lengths: Sequence[int] = ()
) -> Bench[Row]:
    """Measure every setting of `grid` on all `models`, by name, the first of which is the baseline.

    `lengths` are those of the texts of a data set, where the grid names one. Models are left as they are: one that is
    elsewhere or of another dtype is copied. A setting that fails does not stop the others; where all fail the first
    error is raised. RecipeError when the grid does not fit the models or the device.
    """
    found, first = attempt(models, grid, device, lengths)
    if first is not None and not found.rows:
        with foreign(RecipeError, "no setting can be measured; the first"):
            raise first
    return found


def attempt(
    models: Mapping[str, PreTrainedModel], grid: Grid, device: str = "auto", lengths: Sequence[int] = ()
) -> tuple[Bench[Row], Exception | None]:
    """What `bench` measures, without rows where all settings fail, and the first error, if there is one."""
    target = pick_device(device)
    _check(models, grid, target, lengths)
    rows: list[Row] = []
    failed: dict[Setting, Exception] = {}
    with computing_with(grid.threads), evaluating(*models.values()):
        machine_then = machine(target)
        for dtype in grid.dtypes:
            with tempfile.TemporaryDirectory() as place:
                there = {name: settled(model, target, dtype) for name, model in models.items()}
                session = _Session(there, target, lengths, Path(place))
                for setting in (one for one in grid.settings() if one.dtype == dtype):
                    try:
                        rows.append(session.row(setting, grid.rounds))
                    except Exception as error:  # a capture, a compiler or a kernel raises anything
                        traceback.clear_frames(error.__traceback__)  # with the memory of what failed
                        failed[setting] = error
    failures = tuple(Failure(one, brief(why)) for one, why in failed.items())
    return Bench(tuple(rows), grid, machine_then, failures), next(iter(failed.values()), None)


class _Session:
    """Measures models that are where and of the dtype they should be. FLOPs are counted once for each work.

    Runtimes keep their files in `place`.
    """

    def __init__(
        self, models: Mapping[str, PreTrainedModel], device: torch.device, lengths: Sequence[int], place: Path
    ) -> None:
        self.models, self.device, self.lengths, self.place = models, device, lengths, place
        self.counted: dict[tuple[Any, ...], int] = {}

    def row(self, setting: Setting, rounds: int) -> Row:
        models = self.models
        batches = {name: self._batches(model, setting) for name, model in models.items()}
        if setting.runtime in TRACED:
            batches = {name: [unpadded(batch) for batch in given] for name, given in batches.items()}
        with ExitStack() as stack:
            stack.enter_context(arithmetic(setting.dtype))
            stack.enter_context(attending(list(models.values()), setting.attention))
            runs = {name: stack.enter_context(self._opened(name, batches[name], setting)) for name in models}
            calls = {
                name: inferring(make_call(model, runs[name], batches[name], setting)) for name, model in models.items()
            }
            seconds = time_calls(calls, rounds, self.device, primed=True)
            sides = tuple(
                Side(
                    name=name,
                    timing=Timing.of(seconds[name], setting.produced),
                    parameters=sum(p.numel() for p in model.parameters()),
                    flops=self._flops(name, batches[name], setting),
                    weight_bytes=weight_bytes(model),
                    activation_bytes=self._activations(calls[name], len(batches[name]), setting),
                    forms=_forms(model, runs[name], setting.runtime),
                )
                for name, model in models.items()
            )
        baseline, *others = seconds.values()
        ratios = tuple(paired_ratio(baseline, other) for other in others)
        return Row(setting, sides, ratios, tuple(tuple(one) for one in seconds.values()))

    def _opened(self, name: str, batches: list[dict[str, Tensor]], setting: Setting) -> AbstractContextManager[Runs]:
        folder = self.place / setting.runtime / str(setting.attention) / str(list(self.models).index(name))
        return opener(setting.runtime)(self.models[name], batches, folder)

    def _activations(self, call: Prepared, batches: int, setting: Setting) -> int | None:
        if setting.runtime == "cuda-graphs" or setting.runtime in EXPORTED:
            return None  # they have memory of their own
        return max(activation_bytes(call.ready(index), self.device) for index in range(batches))

    def _batches(self, model: PreTrainedModel, setting: Setting) -> list[dict[str, Tensor]]:
        if setting.length is not None:
            return [placed(dummy_inputs(model, setting.batch_size, setting.length), model)]
        size = setting.batch_size
        groups = [self.lengths[start : start + size] for start in range(0, len(self.lengths) - size + 1, size)]
        left = setting.phase != "forward" and not model.config.is_encoder_decoder
        return [placed(ragged_inputs(model, group, left), model) for group in groups[:_RAGGED_BATCHES]]

    def _flops(self, name: str, batches: Sequence[dict[str, Tensor]], setting: Setting) -> int:
        work = (name, setting.batch_size, setting.length, setting.phase)
        if work not in self.counted:
            model = self.models[name]
            call = make_call(model, model, batches, replace(setting, runtime="torch"))
            with torch.no_grad(), attending([model], _counted(model)):
                self.counted[work] = sum(flops_of(call.ready(index)) for index in range(len(batches))) // len(batches)
        return self.counted[work]


def _counted(model: PreTrainedModel) -> Attention | None:
    """Attention whose FLOPs torch's counter knows: the model's own, or eager, which is the same sum."""
    return None if model.config._attn_implementation in ("eager", "sdpa") else "eager"


def _forms(model: PreTrainedModel, runs: Runs, runtime: Runtime) -> tuple[LayerForm, ...] | None:
    """What the linears compute as: chosen for `runs`, or two of four by themselves, which no trace and no export is."""
    from prune_core.sparse.forms import TwoOfFour, packed_in

    if isinstance(runs, Formed):
        return runs.forms
    packed = packed_in(model) if runtime in ("torch", "cuda-graphs") else {}
    forms = {name: TwoOfFour.kind if there else DENSE for name, there in packed.items()}
    weights: dict[str, Tensor] = {name: model.get_parameter(f"{name}.weight") for name in forms}
    return (
        tuple(LayerForm(name, form, float((weights[name] != 0).float().mean())) for name, form in forms.items()) or None
    )


def _check(models: Mapping[str, PreTrainedModel], grid: Grid, device: torch.device, texts: Sequence[int]) -> None:
    """RecipeError where a setting fits not these models, this device or the lengths of these texts."""
    if grid.lengths_of is not None and len(texts) < max(grid.batch_sizes):
        raise RecipeError(
            f"lengths_of: {grid.lengths_of} has {len(texts)} texts, fewer than a batch of {max(grid.batch_sizes)}"
        )
    only_there = {"cuda-graphs", "tf32"} if device.type != "cuda" else EXPORTED
    wanted = [name for name in (*grid.runtimes, *grid.dtypes) if name in only_there]
    if wanted:
        where = "on the CPU" if wanted[0] in EXPORTED else "on CUDA devices"
        raise RecipeError(f"{wanted[0]}: it is there {where} only, and this is measured on the {device.type}")
    if grid.new_tokens is not None:
        longest = max(grid.lengths if grid.lengths_of is None else texts)
        for model in models.values():
            check_generates(model)
            check_room(model, longest, grid.new_tokens)


def settled(model: PreTrainedModel, device: torch.device, dtype: DType) -> PreTrainedModel:
    """The model on this device and of this dtype: itself, or a copy where it is not."""
    wanted = computed_in(dtype)
    if model.device.type == device.type and model.dtype == wanted:
        return model
    moved = copy.deepcopy(model)
    nn.Module.to(moved, device=device, dtype=wanted)
    return moved
