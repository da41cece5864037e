"""Seconds of calls, interleaved round by round, and what they say together."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

_WARM_UP_ROUNDS = 3
_BOOTSTRAP_SAMPLES = 2000


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
