"""MiniLM with its word embeddings in 8 and in 4 bits: bytes, what the outputs change, and the figure of a task.

    python benchmarks/embedding_bits.py WORK [--steps 300] [--output docs/results/embedding_bits.json]

Nothing is pruned, so that all that is lost is lost by rounding. STS-B needs no training; for SST-2 a head is trained in
so few steps (kept in WORK) that the figure says nothing but whether rounding moves it. PRUNE_DATA has the data.
"""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from minilm import minilm
from report import report

from prune_core.embeddings.rounding import round_measured
from prune_core.folders.compacting import compact_folder
from prune_core.recipe import Recipe, TaskSection
from prune_core.runs.preparation import trained_job
from prune_core.runs.run import evaluate_folder
from prune_core.verification.verify import real_batches

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PRUNE_DATA", "../shared/data")).resolve()


def trained(work: Path, steps: int) -> Path:
    """MiniLM with a head for SST-2, trained unless it is there."""
    folder = work / f"sst2-{steps}"
    script = [sys.executable, str(ROOT / "benchmarks" / "dense.py"), "sst2", str(folder)]
    settings = [f"model={minilm()}", f"training.max_steps={steps}", "training.learning_rate=1e-4", "device=cpu"]
    command = [*script, *(part for setting in settings for part in ("--set", setting))]
    subprocess.run(command, check=True, env=os.environ | {"PRUNE_DATA": str(DATA)})
    return folder


def row(model: Path, task: TaskSection, bits: int | None, work: Path) -> dict[str, object]:
    """The model with its embeddings in so many bits, or in full: bytes of its file, figure, and what rounding changed.

    The folder is the one that `prune compact` writes; differences are those of the outputs for 64 validation examples.
    """
    folder, found = model, {}
    if bits:
        folder = work / f"{model.name}-{bits}-bits"
        shutil.rmtree(folder, ignore_errors=True)
        compact_folder(model, None, folder, Recipe(embedding_bits=bits))
        job = trained_job(Recipe(model=str(model), task=task), "cpu")
        found = asdict(round_measured(job.task.load_model(str(model)), bits, list(real_batches(job.task))))
        found = {name: found[name] for name in ("largest_difference", "mean_difference", "largest_output")}
    figures = evaluate_folder(Recipe(model=str(folder), task=task, device="cpu"))
    size = (folder / "model.safetensors").stat().st_size
    return {"bits": bits or 32, "file_bytes": size, **{n: round(x, 5) for n, x in figures.items()}, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pairs = TaskSection(name="sentence-embedding", validation_file=DATA / "stsb-validation.parquet")
    sentences = TaskSection(name="text-classification", validation_file=DATA / "sst2-validation.parquet")
    models = {"stsb": (minilm(), pairs), "sst2": (trained(given.work, given.steps), sentences)}
    found = {
        "what": "MiniLM, nothing pruned, its word embeddings in full, in 8 and in 4 bits",
        "sst2_steps": given.steps,
        **{name: [row(*one, bits, given.work) for bits in (None, 8, 4)] for name, one in models.items()},
    }
    report(found, given.output)


if __name__ == "__main__":
    main()
