"""Seconds of calls, interleaved round by round, and what they say together."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)

_WINDOW = 3
_LONGEST_WARM_UP = 30
_SECONDS_ON_CUDA = 0.5
"""A warm-up on CUDA takes so long at least: an idle GPU raises its clocks only after a while."""
_STILL_FASTER = 0.95
_BOOTSTRAP_SAMPLES = 2000
_ROUNDS_OF_A_VERDICT = 9


@dataclass(frozen=True)
class Timing:
    """Seconds a batch over the rounds (median, 90th and 99th percentile), and what is done a second at the median:
    examples, or tokens where tokens are decoded.
    """

    p50: float
    p90: float
    p99: float
    throughput: float

    @classmethod
    def of(cls, seconds: Sequence[float], produced: int) -> "Timing":
        """The summary of one number of seconds a round, in each of which so many examples or tokens were done."""
        p50, p90, p99 = np.percentile(seconds, [50, 90, 99])
        return cls(float(p50), float(p90), float(p99), produced / float(p50))


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios, and its 95 % bootstrap interval. As text it is a speed-up, or that there is none.

    `enough`: whether it is of nine rounds or more; else it tells no difference. Of two equal calls the interval of
    three rounds leaves out 1 in every fourth case, of seven in every ninth, of nine or more in every thirteenth.
    """

    value: float
    low: float
    high: float
    enough: bool = True

    def __str__(self) -> str:
        interval = f"({self.low:.2f} to {self.high:.2f})"
        if self.low <= 1 <= self.high:
            return f"no significant difference {interval}"
        return f"{self.value:.2f}x {interval}" if self.enough else f"too few rounds to tell {interval}"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Ratio":
        """Of the fields that `to_dict` gives, among whatever others."""
        value, low, high = fields["speedup"], fields["speedup_low"], fields["speedup_high"]
        return cls(value, low, high, enough=fields["significant"] or low <= 1 <= high)

    @property
    def figures(self) -> tuple[float, float, float]:
        """Median, low and high."""
        return self.value, self.low, self.high

    @property
    def significant(self) -> bool:
        """Whether there is a difference: the interval does not contain 1, and is of enough rounds."""
        return self.enough and not self.low <= 1 <= self.high

    def to_dict(self) -> dict[str, Any]:
        """As fields of JSON, of a speed-up."""
        fields = {"speedup": self.value, "speedup_low": self.low, "speedup_high": self.high}
        return {**fields, "significant": self.significant}


@dataclass(frozen=True)
class Prepared:
    """A call of which only `run` is timed, on what `prepare` returns, which is told the number of the round; after so
    many rounds as `period` comes the same again.
    """

    prepare: Callable[[int], Any]
    run: Callable[[Any], object]
    period: int = 1

    def ready(self, index: int) -> Callable[[], object]:
        """What is timed in this round, with its state prepared."""
        state = self.prepare(index)
        return lambda: self.run(state)


Call = Callable[[], object] | Prepared
_Timer = Callable[[Call, int], float]
"""Seconds of a call in the round of this number."""


def time_calls(
    calls: Mapping[str, Call], rounds: int, device: torch.device | None = None, *, primed: bool = False
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` interleaved rounds; the order alternates by round.

    `primed`: before each call that is timed comes that of the same round untimed, so that caches hold what it needs, as
    where nothing else runs between its calls; a large model would else push a small one out of them.

    Before them come warm-up rounds, six or more, until each of the calls was no faster in three rounds than in the
    three before, or in a period than in the one before; on CUDA half a second of them at least. Times come from CUDA
    events where `device` is a CUDA device, from the wall clock elsewhere.
    """
    timer = _timer(device)
    _warm_up(calls, timer, _SECONDS_ON_CUDA if timer is _cuda_seconds else 0.0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    timed = _primed(timer) if primed else timer
    for index in range(rounds):
        _round(calls, timed, index, seconds)
    return seconds


def time_once(call: Call, device: torch.device) -> float:
    """Seconds of one call, by the same clock; without a warm-up."""
    return _timer(device)(call, 0)


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Median of the ratios round by round, and its 95 % bootstrap interval (low, high); of fewer than nine rounds it is
    never significant.
    """
    ratios = np.asarray(numerator) / np.asarray(denominator)
    draws = np.random.default_rng(0).choice(ratios, (_BOOTSTRAP_SAMPLES, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high), enough=len(ratios) >= _ROUNDS_OF_A_VERDICT)


def _timer(device: torch.device | None) -> _Timer:
    return _cuda_seconds if device is not None and device.type == "cuda" else _wall_seconds


def _warm_up(calls: Mapping[str, Call], timer: _Timer, least: float) -> None:
    """Rounds until all calls are warm, for `least` seconds or more."""
    before: dict[str, list[float]] = {name: [] for name in calls}
    windows = {name: max(_WINDOW, call.period if isinstance(call, Prepared) else 1) for name, call in calls.items()}
    longest = max(_LONGEST_WARM_UP, *(2 * window for window in windows.values()))
    warm: set[str] = set()  # a call is warm once and for all: with many of them noise would not let all be so at a time
    end = time.perf_counter() + least
    for index in count():
        _round(calls, timer, index, before)
        warm |= {name for name, seconds in before.items() if _stable(seconds, windows[name])}
        done = len(warm) == len(calls)
        if (done or index + 1 >= longest) and time.perf_counter() >= end:
            break
    if not done:
        logger.warning("after %d rounds of warm-up the calls still get faster", index + 1)


def _round(calls: Mapping[str, Call], timer: _Timer, index: int, seconds: Mapping[str, list[float]]) -> None:
    for name in list(calls) if index % 2 else reversed(list(calls)):
        seconds[name].append(timer(calls[name], index))


def _stable(seconds: Sequence[float], window: int) -> bool:
    """Whether the last rounds are not faster than those before: what is noise goes both ways, a warm-up only one."""
    if len(seconds) < 2 * window:
        return False
    before, now = seconds[-2 * window : -window], seconds[-window:]
    return statistics.median(now) >= _STILL_FASTER * statistics.median(before)


def _primed(timer: _Timer) -> _Timer:
    def timed(call: Call, index: int) -> float:
        _ready(call, index)()
        return timer(call, index)

    return timed


def _ready(call: Call, index: int) -> Callable[[], object]:
    return call.ready(index) if isinstance(call, Prepared) else call


def _wall_seconds(call: Call, index: int) -> float:
    ready = _ready(call, index)
    start = time.perf_counter()
    ready()
    return time.perf_counter() - start


def _cuda_seconds(call: Call, index: int) -> float:
    ready = _ready(call, index)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    ready()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000
