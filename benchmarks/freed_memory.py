"""A model that serves alone in a process, where glibc gives freed memory back and where it keeps it.

    python benchmarks/freed_memory.py [--rounds 9] [--output FILE]

BERT-base and a published network of it, float32, batch 8 and 1, length 128. Each round is a process with and one
without MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_, in turns; a process says the median of its forward passes and
the page faults of one. Linux with glibc.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from report import figure, report

from prune_core.bench.networks import build_dense, build_network, read_networks
from prune_core.measure import paired_ratio
from prune_core.measure.timing import time_once

KEEPING = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
NETWORKS = Path(__file__).with_name("bar_networks.json")
SERVED = ("dense", "squadv1 #10")
LENGTH, WARM_UP, PASSES = 128, 4, 11


def served(name: str, batch_size: int) -> dict[str, float]:
    """Median seconds of a forward pass of this process, and page faults of one."""
    networks = {network.row: network for network in read_networks(NETWORKS)}
    model = build_dense({}) if name == SERVED[0] else build_network(networks[name])
    forward = partial(model, input_ids=torch.randint(0, 30000, (batch_size, LENGTH)))
    with torch.inference_mode():
        for _ in range(WARM_UP):
            forward()
        before = _faults()
        seconds = [time_once(forward, model.device) for _ in range(PASSES)]
    return {"seconds": statistics.median(seconds), "faults": (_faults() - before) / PASSES}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def compared(name: str, batch_size: int, rounds: int, threads: int) -> dict[str, object]:
    """Processes that give memory back over processes that keep it, and the page faults of both."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, __file__, "--serve", name, "--batch-sizes", str(batch_size), "--threads", str(threads)]
    found: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
    for place in range(rounds):
        for how in ("returned", "kept") if place % 2 else ("kept", "returned"):
            environment = mine | (KEEPING if how == "kept" else {})
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[how].append(json.loads(done.stdout))
    seconds = {how: [run["seconds"] for run in runs] for how, runs in found.items()}
    row = {
        "model": name,
        "batch_size": batch_size,
        **figure("speedup", paired_ratio(seconds["returned"], seconds["kept"])),
        "milliseconds": {how: round(1e3 * statistics.median(runs), 1) for how, runs in seconds.items()},
        "faults": {how: round(statistics.median(run["faults"] for run in runs)) for how, runs in found.items()},
    }
    print(row, file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.serve:
        print(json.dumps(served(given.serve, given.batch_sizes[0])))
        return
    rows = [compared(name, size, given.rounds, given.threads) for size in given.batch_sizes for name in SERVED]
    report({"length": LENGTH, "rounds": given.rounds, "rows": rows}, given.output)


if __name__ == "__main__":
    main()
