"""How fast a runtime is, alone and against the dense model in the same runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from prune_core.exporting.formats import Runtime
from prune_core.exporting.trace import Batch
from prune_core.measure import Timing, machine, paired_ratio, time_calls
from prune_core.recipe import MeasureSection

Timed = tuple[Runtime, Batch]
"""A runtime and the batch that it is timed on."""


def measure_speed(sides: Mapping[str, Timed], section: MeasureSection) -> dict[str, Any]:
    """Seconds a batch of "model" and, where it is among `sides`, of "baseline", timed in turns; their paired ratio.

    Plain data for JSON: timings by side, `speedup` with its 95 % interval, the settings and the machine.
    """
    calls = {name: _call(*side) for name, side in sides.items()}
    seconds = time_calls(calls, section.rounds, primed=True)
    found: dict[str, Any] = {name: asdict(Timing.of(times, section.batch_size)) for name, times in seconds.items()}
    if "baseline" in seconds:
        found |= paired_ratio(seconds["baseline"], seconds["model"]).to_dict()
    settings = {"batch_size": section.batch_size, "length": section.length, "rounds": section.rounds}
    return {**found, **settings, "machine": asdict(machine(torch.device("cpu")))}


def _call(runtime: Runtime, batch: Batch) -> Any:
    return lambda: runtime(batch)
