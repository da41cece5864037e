"""Where a short run lands: 60 steps of 32 on SST-2 from the fine-tuned MiniLM, hybrid and structured, three densities.

python benchmarks/landing.py WORK [--output docs/results/landing.json]     # WORK/dense from benchmarks/dense_sst2.py
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
from report import report

from prune_core.recipe import Recipe
from prune_core.runs.run import run

DENSITIES = (0.5, 0.35, 0.2)


def landed(work: Path, strategy: str, density: float, folder: Path) -> float:
    """Density of the compact model of one run."""
    recipe = Recipe.parse(
        {
            "model": str(work / "dense"),
            "task": {
                "name": "text-classification",
                "train_file": str(work / "sst2-train90.parquet"),
                "validation_file": str(work / "sst2-heldout10.parquet"),
                "columns": {"text": "sentence", "label": "label"},
                "max_train_samples": 2000,
                "max_validation_samples": 128,
            },
            "strategy": {"name": strategy, "density": density},
            "training": {"max_steps": 60},
            "fill": {"max_steps": 0},
            "measure": {"rounds": 3},
            "output": str(folder),
        }
    )
    return float(run(recipe)["density"]["reached"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy, density in itertools.product(("hybrid", "structured"), DENSITIES):
            reached = landed(arguments.work, strategy, density, Path(folder) / f"{strategy}-{density}")
            rows.append({"strategy": strategy, "steps": 60, "asked": density, "reached": round(reached, 4)})
            print(rows[-1], flush=True)
    report({"what": "density of the compact model after 60 steps of 32", "rows": rows}, arguments.output)


if __name__ == "__main__":
    main()
