"""Every kind of task on real data: a dense model, pruned to half, its figure, its density, its speed.

    python benchmarks/real_data.py WORK train [NAME ...]     # dense models and pruning runs that are missing
    python benchmarks/real_data.py WORK table                # measures the rows trained in WORK, writes docs/results

Text classification, similarity and question answering start from the pip-installed MiniLM, the others from small models
that know nothing: they prove that it works, they are no records. PRUNE_DATA (default ../shared/data) has the data.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from minilm import minilm
from report import report

from prune_core.malloc import keep_freed_memory
from prune_core.measure import compare_folders
from prune_core.recipe import MeasureSection

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
DATA = Path(os.environ.get("PRUNE_DATA", "../shared/data")).resolve()
PRUNING = ("--strategy", "structured", "--density", "0.5", "--learning-rate", "1.5e-4")


@dataclass(frozen=True)
class Row:
    """`dense` and `pruning` are settings of the two trainings, `length` the tokens of the speed measurement."""

    name: str
    task: str
    model: str
    fresh: bool = False
    dense: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()
    length: int = 128

    def start(self, work: Path) -> Path:
        """The model that the dense one is fine-tuned from."""
        return work / self.name / "fresh" if self.fresh else minilm()


def files(name: str) -> tuple[str, ...]:
    return (f"task.train_file={DATA / name}-train.parquet", f"task.validation_file={DATA / name}-validation.parquet")


TUNED = ("training.learning_rate=1e-4",)
SCRATCH = ("training.learning_rate=1e-3", "training.batch_size=64")
ROWS = [
    Row("cola", "cola", "MiniLM", dense=("training.epochs=3",), pruning=("training.epochs=4",)),
    Row("stsb", "stsb", "MiniLM", dense=("training.epochs=3",), pruning=("training.epochs=5",)),
    Row("rte", "rte", "MiniLM", dense=(*TUNED, "training.epochs=4"), pruning=("training.epochs=4",)),
    Row(
        *("squad", "squad", "MiniLM"),
        dense=(*TUNED, "training.max_steps=500"),
        pruning=("training.max_steps=200",),
        length=384,
    ),
    Row(
        *("multi30k", "multi30k", "BART"),
        fresh=True,
        dense=(*SCRATCH, "training.epochs=16"),
        pruning=("training.epochs=8", "training.batch_size=64"),
        length=32,
    ),
    Row(
        *("dialogsum", "dialogsum", "BART"),
        fresh=True,
        dense=(*SCRATCH, "task.max_length=256", "training.epochs=4"),
        pruning=("training.epochs=3", "training.batch_size=64", "task.max_length=256"),
        length=256,
    ),
    Row(
        *("shakespeare", "causal-lm", "OPT"),
        fresh=True,
        dense=(*SCRATCH, *files("shakespeare"), "training.epochs=8"),
        pruning=(*files("shakespeare"), "training.epochs=4", "training.batch_size=64"),
    ),
    Row(
        *("cifar10", "cifar10", "ViT"),
        fresh=True,
        dense=(*SCRATCH, "training.epochs=15"),
        pruning=("training.epochs=8", "training.batch_size=64"),
    ),
]


def settings(values: tuple[str, ...]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def train(row: Row, work: Path) -> None:
    """Make the dense model and the pruned one, or what of them is missing."""
    folder = work / row.name
    environment = os.environ | {"PRUNE_DATA": str(DATA)}
    start, dense, run = row.start(work), folder / "dense", folder / "run"

    def call(*command: str) -> None:
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True, env=environment)

    if row.fresh and not start.is_dir():
        call(sys.executable, str(ROOT / "benchmarks" / "small_models.py"), row.name, str(start))
    if not dense.is_dir():
        script = str(ROOT / "benchmarks" / "dense.py")
        call(sys.executable, script, row.task, str(dense), *settings((f"model={start}", *row.dense)))
    if not (run / "manifest.json").is_file():
        program = str(Path(sys.executable).with_name("prune"))
        resume = ["--resume"] if run.is_dir() else []
        asked = ["--task", row.task, "--model", str(dense), "--output", str(run), *PRUNING, *settings(row.pruning)]
        call(program, "run", *asked, *resume)


def figures(row: Row, work: Path) -> dict[str, object]:
    """One line of the table, its speed measured now."""
    run, dense = work / row.name / "run", work / row.name / "dense"
    manifest = json.loads((run / "manifest.json").read_text())
    section = MeasureSection(rounds=20, length=row.length)
    comparison = compare_folders(str(run / "model"), str(dense), section, "cpu")
    density, metric = manifest["density"], manifest["metric"]
    return {
        "data": row.name,
        "model": row.model,
        "metric": metric["name"],
        "dense": metric["dense"],
        "pruned": metric["pruned"],
        "asked": density["asked"],
        "reached": density["reached"],
        "speedup": comparison.speedup,
        "interval": [comparison.speedup_low, comparison.speedup_high],
        "flop_ratio": comparison.flop_ratio,
        "length": row.length,
        "metrics": manifest["metrics"],
    }


def table(work: Path) -> None:
    """Measure what was trained in `work`, keep the other rows as they stand, write real_data.json and real_data.md."""
    keep_freed_memory()  # as prune does
    torch.set_num_threads(2)
    before = {row["data"]: row for row in json.loads((RESULTS / "real_data.json").read_text())["rows"]}
    trained = [row for row in ROWS if (work / row.name / "run" / "manifest.json").is_file()]
    found = before | {row.name: figures(row, work) for row in trained}
    rows = [found[row.name] for row in ROWS if row.name in found]
    report({"batch_size": 8, "rows": rows}, RESULTS / "real_data.json")
    lines = [
        "# Every kind of task, on real data",
        "",
        "A dense model (MiniLM fine-tuned, or a small model trained from scratch), then structured fine-pruning to",
        "half, its dense self as the teacher. Speed at batch 8, float32, 2 CPU threads, median of 20 rounds.",
        "SST-2 has [a table of its own](sst2.md). squad: questions of SQuAD's development set and of twelve articles",
        "of its training set, split anew, so figures are not those of SQuAD's own validation.",
        "",
        "| data | model | figure | dense | pruned | density asked | reached | speed-up | tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in rows:
        low, high = line["interval"]
        lines.append(
            "| {data} | {model} | {metric} | {dense:.4g} | {pruned:.4g} | {asked} | {reached:.3f} | "
            "{speedup:.2f}x ({low:.2f} to {high:.2f}) | {length} |".format(**line, low=low, high=high)
        )
    lines += ["", "`make bench-data`: `python benchmarks/real_data.py WORK train`, then `... WORK table`."]
    (RESULTS / "real_data.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("names", nargs="*", default=[row.name for row in ROWS], help="in this order")
    given = parser.parse_args()
    if given.what == "table":
        table(given.work)
        return
    rows = {row.name: row for row in ROWS}
    for name in given.names:
        train(rows[name], given.work)


if __name__ == "__main__":
    main()
