"""The SST-2 table: MiniLM fine-tuned on SST-2, pruned by every strategy from that dense model, with as many steps.

    python benchmarks/dense_sst2.py WORK/dense                 # once
    python benchmarks/sst2_table.py WORK run [--jobs N]        # trains what is missing, N rows at a time
    python benchmarks/sst2_table.py WORK table                 # measures all rows in one process, writes docs/results
    python benchmarks/sst2_table.py WORK speeds                # their speed anew, by the sizes that docs/results holds

A row is `prune run recipes/sst2.yaml` with a strategy, a density and a seed; every choice was made on the tenth of
train that WORK/sst2-heldout10.parquet holds out, and the figures of the table are those of the validation set. What is
lost on the tenth stands beside them: it has eight times as many sentences.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from minilm import SIZES
from report import report

from prune_core.bench.grid import Grid
from prune_core.bench.networks import bench_networks
from prune_core.files import write_text
from prune_core.malloc import keep_freed_memory
from prune_core.measure import Ratio, compare_folders
from prune_core.recipe import MeasureSection, Recipe, TaskSection
from prune_core.runs.run import evaluate_folder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Row:
    strategy: str
    density: float
    seed: int
    steps: int = 1200

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.density}-{self.steps}-seed{self.seed}"

    @property
    def max_steps(self) -> int:
        """Of the run; hybrid's fill takes a quarter of them again."""
        return self.steps * 4 // 5 if self.strategy == "hybrid" else self.steps


ROWS = [
    Row("structured", 0.48, 0, 2400),
    Row("structured", 0.48, 1, 2400),
    Row("structured", 0.3, 0, 2400),
    Row("structured", 0.3, 1, 2400),
    Row("structured", 0.48, 0),
    Row("structured", 0.48, 1),
    Row("structured", 0.32, 0),
    Row("structured", 0.32, 1),
    Row("hybrid", 0.48, 0),
    Row("hybrid", 0.48, 1),
    Row("block", 0.48, 0),
    Row("unstructured", 0.48, 0),
]


LINE = (
    "| {strategy} | {steps} | {seed} | {asked} | {reached:.3f} | {dense} | {pruned} | {held_out[dense]} | "
    "{held_out[pruned]} | {speedup}x ({interval[0]} to {interval[1]}) | 1/{flop_ratio} | {megabytes} |"
)


def command(row: Row, work: Path) -> list[str]:
    data = Path(os.environ.get("PRUNE_DATA", "../shared/data"))
    return [
        *(str(Path(sys.executable).with_name("prune")), "run", str(ROOT / "recipes" / "sst2.yaml")),
        *("--strategy", row.strategy, "--density", str(row.density), "--seed", str(row.seed)),
        *("--max-steps", str(row.max_steps)),
        *("--model", str(work / "dense"), "--train-file", str(work / "sst2-train90.parquet")),
        *("--validation-file", str(data / "sst2-validation.parquet"), "--output", str(work / "runs" / row.name)),
    ]


def run(work: Path, jobs: int) -> None:
    """Train every row that is missing, `jobs` at a time, each on its share of the cores; say which fail."""
    threads = str(max((os.cpu_count() or 1) // jobs, 1))
    environment = os.environ | {"OMP_NUM_THREADS": threads}

    def train(row: Row) -> bool:
        folder = work / "runs" / row.name
        if (folder / "manifest.json").is_file():
            return True
        resume = ["--resume"] if folder.is_dir() else []
        with (work / f"{row.name}.log").open("a") as log:
            print(row.name, flush=True)
            done = subprocess.run([*command(row, work), *resume], stdout=log, stderr=log, check=False, env=environment)
        return done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        failed = [row.name for row, done in zip(ROWS, pool.map(train, ROWS), strict=True) if not done]
    if failed:
        sys.exit(f"not trained: {', '.join(failed)}; {work}/NAME.log says why")


@cache
def held_out(folder: Path, work: Path) -> float:
    """Accuracy of a model on the tenth of train that no row was trained on."""
    task = TaskSection(name="sst2", validation_file=work / "sst2-heldout10.parquet")
    return round(100 * evaluate_folder(Recipe(model=str(folder), task=task, device="cpu"))["accuracy"], 2)


def figures(row: Row, work: Path) -> dict[str, Any] | None:
    """One line of the table, its speed measured now; None for a row that has not been trained."""
    folder = work / "runs" / row.name
    if not (folder / "manifest.json").is_file():
        return None
    manifest = json.loads((folder / "manifest.json").read_text())
    comparison = compare_folders(str(folder / "model"), str(work / "dense"), MeasureSection(rounds=30), "cpu")
    metric, density = manifest["metric"], manifest["density"]
    return {
        "strategy": row.strategy,
        "seed": row.seed,
        "steps": row.steps,
        "asked": round(density["asked"], 4),
        "reached": round(density["reached"], 4),
        "dense": round(100 * metric["dense"], 2),
        "pruned": round(100 * metric["pruned"], 2),
        "held_out": {"dense": held_out(work / "dense", work), "pruned": held_out(folder / "model", work)},
        **timed(comparison.ratio, comparison.flop_ratio),
        "megabytes": round((comparison.model.file_bytes or 0) / 1e6, 1),
        "dense_megabytes": round((comparison.baseline.file_bytes or 0) / 1e6, 1),
        "heads": [unit["kept"] for unit in manifest["units"] if unit["key"].endswith("attention")],
        "neurons": [unit["kept"] for unit in manifest["units"] if unit["key"].endswith("ffn")],
        "difference": manifest["verification"]["masked_vs_compact"],
    }


def timed(speedup: Ratio, flop_ratio: float) -> dict[str, Any]:
    """What a row says of speed."""
    interval = [round(speedup.low, 2), round(speedup.high, 2)]
    return {"speedup": round(speedup.value, 2), "interval": interval, "flop_ratio": round(flop_ratio, 2)}


def table(work: Path) -> None:
    """Measure every trained row and write docs/results/sst2.json and sst2.md."""
    keep_freed_memory()  # as prune does
    torch.set_num_threads(2)
    write([line for line in (figures(row, work) for row in ROWS) if line is not None])


def speeds(work: Path) -> None:
    """Measure the speed of the table's rows anew, as networks of their sizes with random weights: a compact model is a
    plain resize, so its speed depends on nothing else, and the trained models need not be there.
    """
    keep_freed_memory()
    torch.set_num_threads(2)
    rows = json.loads((RESULTS / "sst2.json").read_text())["rows"]
    networks = [
        {"row": str(place), "base": SIZES, "heads_per_layer": row["heads"], "ffn_per_layer": row["neurons"]}
        for place, row in enumerate(rows)
    ]
    file = work / "networks.json"
    write_text(file, json.dumps({"networks": networks}))
    bench = bench_networks(file, Grid(rounds=30), "cpu")
    if bench.failed:
        sys.exit("\n".join(one.error for one in bench.failed))
    measured = {found.name: found.rivals[0] for found in bench.rows}
    for place, row in enumerate(rows):
        row |= timed(measured[str(place)].speedup, measured[str(place)].flop_limit)
    write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Write sst2.json and sst2.md."""
    report({"batch_size": 8, "length": 128, "rows": rows}, RESULTS / "sst2.json")
    lines = [
        "# MiniLM on SST-2",
        "",
        "Dense: MiniLM-L6-H384 fine-tuned on nine tenths of SST-2's train. Every row: steps of 32 from that model",
        "(of hybrid the last fifth is its fill), its dense self as the teacher, one recipe (`recipes/sst2.yaml`).",
        "Accuracy on the 872 validation sentences, and on the tenth of train that is held out: 6735 phrases, of",
        "sentences whose other phrases were trained on. Speed at batch 8, length 128, float32, 2 CPU threads, median",
        "of 30 interleaved rounds (95 % interval); it depends on the sizes alone, and may have been measured later.",
        "",
        "| strategy | steps | seed | density asked | reached | dense | pruned | held out: dense | pruned | speed-up | "
        f"FLOPs | MB (dense {rows[0]['dense_megabytes']}) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [LINE.format(**row) for row in rows]
    lines += [
        "",
        "A row is `prune run recipes/sst2.yaml --model WORK/dense --train-file WORK/sst2-train90.parquet",
        "--validation-file DATA/sst2-validation.parquet --strategy S --density D --seed N --max-steps STEPS`",
        "(hybrid: 4/5); all: `make bench-sst2`, which is `python benchmarks/dense_sst2.py WORK/dense` and then",
        "`python benchmarks/sst2_table.py WORK run` and `python benchmarks/sst2_table.py WORK table`.",
    ]
    (RESULTS / "sst2.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("what", choices=["run", "table", "speeds"])
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.work, arguments.jobs)
    elif arguments.what == "table":
        table(arguments.work)
    else:
        speeds(arguments.work)


if __name__ == "__main__":
    main()
