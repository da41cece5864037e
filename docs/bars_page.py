"""The page on what was asked and what was measured: every bar, read from the files of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

BARS = """# What was asked, and what was measured

What the project asks of itself. Written by `make docs` from the JSON files beside it.
**Reached**: the bad end of the interval meets the bar; *reached by the median*: only the figure itself does; *missed
by*: how far the figure is from it. Intervals are those of 95 %, or the range where a figure is made of several runs;
where there is none, it is that of one run, or the worst of several. [README.md](README.md) says what the files are.
"""

MACHINES = """## Where it was measured

A CPU's name is the one that it gives itself, mostly of a shared virtual machine. *Freed memory* and *wait policy* (what
threads do between products) are explained in [measuring.md](../measuring.md).

| file | machine | threads | torch | freed memory | OMP_WAIT_POLICY |
|---|---|---|---|---|---|"""

Found = Any
"""What a file holds."""


@dataclass(frozen=True)
class Figure:
    """A value and its interval; `low` and `high` are the value itself where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """What was asked: a figure of a file, at most or at least so much. `read` gives None where it was not measured."""

    asked: str
    file: str
    read: Callable[[Found], Figure | None]
    most: float | None = None
    least: float | None = None

    def verdict(self, figure: Figure) -> str:
        bad = figure.high if self.most is not None else figure.low
        if self._meets(bad):
            return "**reached**"
        if self._meets(figure.value):
            return "reached by the median"
        limit = self.most if self.most is not None else self.least
        return f"missed by {abs(figure.value - (limit or 0)):.3f}"

    def _meets(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


def bars(results: Path) -> str:
    """The page, of the files in this folder; bars whose file is not there are counted."""
    there = [bar for bar in ALL if (results / f"{bar.file}.json").is_file()]
    missing = Counter(bar.file for bar in ALL if bar not in there)
    left = "".join(f"\nNot measured: the {count} bars of {file}.json.\n" for file, count in missing.items())
    return "\n".join([BARS, *_table(results, there), left, MACHINES, *_machines(results), ""])


def _table(results: Path, there: Sequence[Bar]) -> Iterator[str]:
    yield "| asked | measured | interval | | file |"
    yield "|---|---|---|---|---|"
    for bar in there:
        figure = bar.read(json.loads((results / f"{bar.file}.json").read_text(encoding="utf-8")))
        if figure is None:
            yield f"| {bar.asked} | | | not measured | {bar.file}.json |"
            continue
        interval = "" if figure.low == figure.high else f"{_short(figure.low)} to {_short(figure.high)}"
        yield f"| {bar.asked} | {_short(figure.value)} | {interval} | {bar.verdict(figure)} | {bar.file}.json |"


def _machines(results: Path) -> Iterator[str]:
    """A line for each file: where it was measured, and what the process did with freed memory and idle threads."""
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found.get("machine") or found.get("comparison", {}).get("machine")
        if machine is None:
            yield f"| {path.name} | not recorded | | | | |"
            continue
        place = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
        freed = machine.get("freed_memory", "as the system does")  # both were so before the files said it
        policy = machine.get("wait_policy", "PASSIVE") or "not set"
        yield f"| {path.name} | {place} | {machine['threads']} | {machine['torch']} | {freed} | {policy} |"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def one(value: float) -> Figure:
    return Figure(value, value, value)


def over(values: Sequence[float], of: Callable[[Sequence[float]], float] = mean) -> Figure:
    """The mean of several runs, or what `of` says, with their range."""
    return Figure(of(values), min(values), max(values))


def given(found: Found, name: str = "ratio") -> Figure:
    """As figures are written: a value and its interval."""
    return Figure(found[name], *found["interval"])


def _runs(found: Found, density: float, steps: int) -> list[Found]:
    """The rows of SST-2 that structured pruning has at a density, one a seed."""
    return [
        row for row in found["rows"] if (row["strategy"], row["asked"], row["steps"]) == ("structured", density, steps)
    ]


def _sst2(density: float, steps: int, speed: float, loss: float) -> Iterator[Bar]:
    def faster(found: Found) -> Figure:
        rows = _runs(found, density, steps)
        ends = [end for row in rows for end in row["interval"]]
        return Figure(mean(row["speedup"] for row in rows), min(ends), max(ends))

    def lost(found: Found) -> Figure:
        return over([row["dense"] - row["pruned"] for row in _runs(found, density, steps)])

    yield Bar(
        f"MiniLM on SST-2, structured at {density}, {steps} steps: at least {speed:g}x faster",
        "sst2",
        faster,
        least=speed,
    )
    yield Bar(f"with that: at most {loss:g} points of accuracy below dense", "sst2", lost, most=loss)


def _gap(found: Found) -> Figure:
    return one(max(abs(row["asked"] - row["reached"]) for row in found["rows"]))


def _trained_share(found: Found) -> Figure:
    """Of the trained models the one furthest below its FLOPs."""
    worst = min(found["rows"], key=lambda row: float(row["speedup"] / row["flop_ratio"]))
    return Figure(*(value / worst["flop_ratio"] for value in (worst["speedup"], *worst["interval"])))


def _random_share(runtime: str) -> Callable[[Found], Figure]:
    """Of the random networks at batch 8 the one furthest below its FLOPs."""

    def read(found: Found) -> Figure:
        shares = [_share(row) for row in found["rows"] if (row["runtime"], row["batch_size"]) == (runtime, 8)]
        return min(shares, key=lambda share: share.value)

    return read


def _share(row: Found) -> Figure:
    """Of the FLOP limit against the only dense model."""
    (against,) = row["against"]
    return Figure(*(against[name] / against["flop_limit"] for name in ("speedup", "speedup_low", "speedup_high")))


NETWORKS = {"squadv1 #4": (0.93, 0.95, 0.90), "mnli #3": (0.89, 0.93, 0.85), "squadv1 #10": (0.83, 0.90, 0.75)}
"""Network -> the share asked of eager torch at batch 8, of the best runtime there, and of the best one at batch 1."""


def _networks() -> Iterator[Bar]:
    """The three published networks, measured beside BERT-base alone."""
    for place, (batch, best) in enumerate(((8, False), (8, True), (1, True))):
        for name, least in NETWORKS.items():

            def read(found: Found, name: str = name, batch: int = batch, best: bool = best) -> Figure:
                rows = [row for row in found["rows"] if (row["name"], row["batch_size"]) == (name, batch)]
                shares = [_share(row) for row in rows if best or row["runtime"] == "torch"]
                return max(shares, key=lambda share: share.value)

            runtime = "the best runtime" if best else "eager torch"
            asked = f"share of the FLOP limit, {name}, batch {batch}, {runtime}: at least {least[place]:.2f}"
            yield Bar(asked, "bar_networks", read, least=least[place])


def _published(dtype: str) -> Bar:
    """Of all networks the one furthest below what was published of it."""

    def read(found: Found) -> Figure | None:
        rows = [row for row in found["rows"] if row["dtype"] == dtype]
        shares = [Figure(*(row["against"][0][name] / row["published_speedup"] for name in _SPEEDS)) for row in rows]
        return min(shares, key=lambda share: share.value, default=None)

    asked = f"GPU, batch 128, length 384, {dtype}: every network at least as many times faster as published (1)"
    return Bar(asked, "published_networks_cuda", read, least=1)


_SPEEDS = ("speedup", "speedup_low", "speedup_high")
_STEPS = {"structured": (1.03, 1.06), "hybrid": (1.03, 1.06), "block": (1.06, 1.12), "unstructured": (1.06, 1.12)}
"""Strategy -> the overhead of a step asked at length 64, and at 24."""


def _steps(file: str, place: str) -> Iterator[Bar]:
    for number, length in enumerate((64, 24)):
        for strategy, most in _STEPS.items():
            for case in (strategy, f"{strategy} topk"):
                if case == "unstructured":  # it is topk
                    continue

                def read(found: Found, case: str = case, length: int = length) -> Figure | None:
                    row = found["lengths"].get(str(length), {}).get(case)
                    return row and given(row)

                asked = f"a step over the dense one{place}, length {length}, {case}: at most {most[number]}"
                yield Bar(asked, file, read, most=most[number])


def _start(state: str) -> Callable[[Found], Figure]:
    def read(found: Found) -> Figure:
        return over([pair["prune"] / pair["bare"] for pair in found["seconds"][state]], median)

    return read


def _reloaded(number: int, way: str) -> Callable[[Found], Figure]:
    return lambda found: given(found["rows"][number][way])


def _largest(name: str) -> Callable[[Found], Figure]:
    return lambda found: one(found[name]["peak_gb_with_mapped_files"])


ALL: tuple[Bar, ...] = (
    *_sst2(0.48, 2400, 2, 0.5),
    *_sst2(0.3, 2400, 3, 1.5),
    Bar("density within 0.02 of what was asked, 1200 and 2400 steps", "sst2", _gap, most=0.02),
    Bar("density within 0.02 of what was asked, 60 steps", "landing", _gap, most=0.02),
    Bar("speed over what FLOPs promise, the worst trained model: at least 0.88", "sst2", _trained_share, least=0.88),
    *(
        Bar(f"the same, random sizes, {runtime}: at least 0.88", "random_networks", _random_share(runtime), least=0.88)
        for runtime in ("torch", "openvino")
    ),
    *_networks(),
    *map(_published, ("float32", "tf32", "bfloat16")),
    *_steps("step_overhead", ""),
    *_steps("step_overhead_cuda", ", GPU"),
    *(
        Bar(f"start of `prune run` over a script's, {state} caches: under 1.5", "first_step", _start(state), most=1.5)
        for state in ("cold", "warm")
    ),
    Bar("`prune --help` over a bare app: at most 1.25", "help_time", given, most=1.25),
    Bar("a BERT-large compacted: under 5 s", "compaction", lambda found: one(found["seconds"]), most=5),
    Bar("with that: at most 2.2x its memory", "compaction", lambda found: one(found["peak_over_model"]), most=2.2),
    *(
        Bar(f"a LLaMA of 7 billion parameters, {what}: within 24 GB", "large_model", _largest(name), most=24)
        for what, name in (("compacted", "compact"), ("reloaded", "reload"))
    ),
    *(
        Bar(f"loading over a dense folder of its size, {model}, {said}: at most 1", "reload", _reloaded(n, way), most=1)
        for n, model in enumerate(("BERT-large", "LLaMA of a billion"))
        for way, said in (
            ("first_answer_from_disk", "first answer, from the disk"),
            ("first_answer", "first answer, from memory"),
            ("mapped", "from_pretrained alone"),
        )
    ),
)
"""Every bar: what was asked, the file, and how to read the figure in it."""
