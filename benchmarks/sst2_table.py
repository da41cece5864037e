"""The SST-2 table: MiniLM fine-tuned on SST-2, pruned by every strategy from that dense model, with as many steps.

    python benchmarks/dense_sst2.py WORK/dense          # once
    python benchmarks/sst2_table.py WORK run            # trains what is missing, one row after the other
    python benchmarks/sst2_table.py WORK table          # measures all rows in one process, writes docs/results/sst2.*

A row is `prune run recipes/sst2.yaml` with a strategy, a density and a seed; every choice was made on the tenth of train
that WORK/sst2-heldout10.parquet holds out, and the figures of the table are those of the validation set.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    strategy: str
    density: float
    seed: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.density}-seed{self.seed}"


ROWS = [
    Row("structured", 0.26, 0),
    Row("structured", 0.42, 0),
    Row("hybrid", 0.42, 0),
    Row("structured", 0.26, 1),
    Row("structured", 0.42, 1),
    Row("unstructured", 0.42, 0),
    Row("block", 0.42, 0),
    Row("hybrid", 0.26, 0),
]


def command(row: Row, work: Path) -> list[str]:
    data = Path(os.environ.get("PRUNE_DATA", "../shared/data"))
    return [
        *(str(Path(sys.executable).with_name("prune")), "run", str(ROOT / "recipes" / "sst2.yaml")),
        *("--strategy", row.strategy, "--density", str(row.density), "--seed", str(row.seed)),
        *("--model", str(work / "dense"), "--train-file", str(work / "sst2-train90.parquet")),
        *("--validation-file", str(data / "sst2-validation.parquet"), "--output", str(work / "runs" / row.name)),
        *row.options,
    ]


def run(work: Path) -> None:
    for row in ROWS:
        folder = work / "runs" / row.name
        if (folder / "manifest.json").is_file():
            continue
        resume = ["--resume"] if folder.is_dir() else []
        with (work / f"{row.name}.log").open("a") as log:
            print(row.name, flush=True)
            subprocess.run([*command(row, work), *resume], stdout=log, stderr=log, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("what", choices=["run", "table"])
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.work)


if __name__ == "__main__":
    main()
