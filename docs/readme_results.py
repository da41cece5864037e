"""The README's table of results, from what benchmarks/sst2_table.py measured."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

START, END = "<!-- results: docs/results/sst2.json -->\n", "<!-- end of results -->"
HEAD = """MiniLM (22 M parameters) on SST-2: dense accuracy {dense:.2f}, pruned from there in steps of 32 sentences.
Speed on a CPU: batch {batch_size}, length {length}, float32, {threads} threads. See
[docs/results](docs/results/README.md), and [targets and measurements](docs/results/bars.md).

| strategy | density | steps | accuracy | speed-up | MB on disk (dense {dense_megabytes}) |
|---|---|---|---|---|---|
"""


def with_results(readme: Path, results: Path) -> str:
    """The text of a README, its table written anew."""
    before, rest = readme.read_text(encoding="utf-8").split(START)
    found = json.loads((results / "sst2.json").read_text(encoding="utf-8"))
    return f"{before}{START}{table(found)}{END}{rest.split(END)[1]}"


def table(found: dict[str, Any]) -> str:
    """A line for each strategy, density and number of steps; of several seeds the mean."""
    head = HEAD.format(**found, **{"threads": found["machine"]["threads"]} | _dense(found["rows"]))
    groups = groupby(found["rows"], key=lambda row: (row["strategy"], row["asked"], row["steps"]))
    return head + "".join(_line(*key, list(rows)) for key, rows in groups)


def _dense(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: rows[0][name] for name in ("dense", "dense_megabytes")}


def _line(strategy: str, density: float, steps: int, rows: list[dict[str, Any]]) -> str:
    seeds = f", mean of {len(rows)} seeds" if len(rows) > 1 else ""
    accuracy, speed, size = (mean(row[name] for row in rows) for name in ("pruned", "speedup", "megabytes"))
    return f"| {strategy}{seeds} | {density} | {steps} | {accuracy:.2f} | {speed:.2f}x | {size:.1f} |\n"
