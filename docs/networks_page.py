"""The page on networks that are known by their sizes, from what `prune bench --networks` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORKS = """# Networks known by their sizes

`make bench-speed` and `make bench-gpu` build networks with random weights and time them beside dense BERTs, all
interleaved, in each runtime: **speed-up** over the dense model *in the same runtime and arithmetic*, and in brackets
the share of the FLOP limit (how many times fewer FLOPs the whole model needs) that it is. Each call comes right after
an untimed one of the same model: so it is as fast as one that runs by itself. Medians; intervals are in the JSON.
"""

TWELVE = """All twelve of them, beside both BERTs. `published` is the speed-up on an RTX 3090, at batch 128
and length 384"""
SECTIONS = {
    "bar_networks": """Three networks of "Block Pruning For Faster Transformers" beside BERT-base alone.""",
    "published_networks": f"{TWELVE}.",
    "random_networks": "Heads and neurons at random in the shapes of MiniLM and BERT-base.",
    "published_networks_cuda": f"{TWELVE}, as here.",
    "published_networks_cuda_one": f"{TWELVE}; here they are measured where launching kernels weighs most.",
}
"""Name of a file of results, where it is there -> what it is."""

Row = Mapping[str, Any]
_KEY = ("runtime", "dtype", "batch_size", "length", "attention")
"""What tells the settings of a network apart."""


def networks(results: Path) -> str:
    """The page, of the files in this folder that are there."""
    return "\n".join([NETWORKS, *_sections(results)])


def _sections(results: Path) -> Iterator[str]:
    for name, what in SECTIONS.items():
        if (path := results / f"{name}.json").is_file():
            measured = json.loads(path.read_text(encoding="utf-8"))
            for rival in dict.fromkeys(one["name"] for row in measured["rows"] for one in row["against"]):
                yield f"## {name}.json, against {rival}\n\n{what}\n\n{_where(measured)}\n"
                yield from (*_table(measured["rows"], rival), "")


def _where(measured: Mapping[str, Any]) -> str:
    """The machine, and the settings that all rows share."""
    machine = measured["machine"]
    on_cpu = f"{machine['threads']} threads of a shared {machine['cpu']}"
    place = on_cpu if machine["device"] == "cpu" else machine["device"]
    rows = measured["rows"]
    shared = [_said(name, rows[0][name]) for name in _KEY if len({row[name] for row in rows}) == 1]
    return f"On {place}: {', '.join(filter(None, shared))}; {measured['grid']['rounds']} rounds."


def _said(name: str, value: Any) -> str:
    """A setting in words; nothing of one that was left to the model."""
    said = {"batch_size": f"batch {value}", "length": f"length {value}"}
    return "" if value is None else said.get(name, str(value))


def _table(rows: Sequence[Row], rival: str) -> Iterator[str]:
    telling = [name for name in _KEY if len({row[name] for row in rows}) > 1]
    settings = list(dict.fromkeys(_key(row) for row in rows))
    heads = [", ".join(_said(name, dict(zip(_KEY, key, strict=True))[name]) for name in telling) for key in settings]
    yield f"| network | FLOP limit | {' | '.join(head or 'speed-up' for head in heads)} | published |"
    yield f"|---|---|{'---|' * len(settings)}---|"
    for name in dict.fromkeys(row["name"] for row in rows):
        own = {_key(row): row for row in rows if row["name"] == name}
        against = {key: _against(row, rival) for key, row in own.items()}
        limit = next(iter(against.values()))["flop_limit"]
        cells = [f"{found['speedup']:.2f}x ({found['share']:.2f})" for found in (against[key] for key in settings)]
        said = next(iter(own.values()))["published_speedup"] if rival != "bert-large" else None
        yield f"| {name} | {limit:.2f}x | {' | '.join(cells)} | {f'{said:.2f}x' if said else ''} |"


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _against(row: Row, rival: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in row["against"] if one["name"] == rival)
    return found
