"""The page on networks that are known by their sizes, from what `prune bench --networks` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORKS = """# Networks known by their sizes

`make bench` builds networks with random weights and times them beside dense BERTs, all interleaved, in each runtime:
**speed-up** over the dense model *in the same runtime*, and in brackets the share of the FLOP limit (how many times
fewer FLOPs the whole model needs) that it is. Each call comes right after an untimed one of the same model: so it is as
fast as one that runs by itself. Medians on {threads} threads of a shared {cpu}, float32, length {length}; intervals
are in the JSON.
"""

SECTIONS = {
    "bar": """Three networks of "Block Pruning For Faster Transformers" beside BERT-base alone.""",
    "published": """All twelve of them, beside both BERTs. `published` is the speed-up on an RTX 3090, at batch 128
and length 384.""",
    "random": "Heads and neurons at random in the shapes of MiniLM and BERT-base.",
}
"""Name of a file of results, where it is there -> what it is."""

Rows = Sequence[Mapping[str, Any]]


def networks(results: Path) -> str:
    """The page, of the files in this folder that are there."""
    found = {name: _read(path) for name in SECTIONS if (path := results / f"{name}_networks.json").is_file()}
    first = next(iter(found.values()))
    settings = {**first["grid"], "threads": first["machine"]["threads"], "cpu": first["machine"]["cpu"]}
    lines = [NETWORKS.format(**settings | {"length": settings["lengths"][0]})]
    for name, measured in found.items():
        for rival in dict.fromkeys(one["name"] for row in measured["rows"] for one in row["against"]):
            lines += [
                f"## {name}_networks.json, against {rival}\n",
                SECTIONS[name],
                "",
                *_table(measured["rows"], rival),
                "",
            ]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _table(rows: Rows, rival: str) -> Iterator[str]:
    settings = list(dict.fromkeys((row["batch_size"], row["runtime"]) for row in rows))
    yield f"| network | FLOP limit | {' | '.join(f'{name}, batch {size}' for size, name in settings)} | published |"
    yield f"|---|---|{'---|' * len(settings)}---|"
    for name in dict.fromkeys(row["name"] for row in rows):
        own = {(row["batch_size"], row["runtime"]): row for row in rows if row["name"] == name}
        against = {key: _against(row, rival) for key, row in own.items()}
        limit = next(iter(against.values()))["flop_limit"]
        cells = [f"{found['speedup']:.2f}x ({found['share']:.2f})" for found in (against[key] for key in settings)]
        said = next(iter(own.values()))["published_speedup"] if rival != "bert-large" else None
        yield f"| {name} | {limit:.2f}x | {' | '.join(cells)} | {f'{said:.2f}x' if said else ''} |"


def _against(row: Mapping[str, Any], rival: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in row["against"] if one["name"] == rival)
    return found
