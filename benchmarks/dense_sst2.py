"""Fine-tune the pip-installed MiniLM on SST-2: the dense model that every row of the SST-2 table starts from.

    python benchmarks/dense_sst2.py OUTPUT [--max-steps N]

Two epochs of recipes/sst2.yaml without any pruning. The data is read from PRUNE_DATA (default ../shared/data). A tenth
of train is held out (seed 0) for every choice; both parts are written beside the model as parquet files, so that
recipes can name them.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from datasets import load_dataset
from minilm import minilm

HERE = Path(__file__).resolve().parent


def split(data: Path, output: Path) -> dict[str, Path]:
    """Nine tenths of SST-2's train to train on, one tenth to choose on: the files."""
    whole = load_dataset("parquet", data_files=str(data / "sst2-train.parquet"), split="train")
    parts = whole.train_test_split(test_size=0.1, seed=0)
    files = {"train": output / "sst2-train90.parquet", "test": output / "sst2-heldout10.parquet"}
    output.mkdir(parents=True, exist_ok=True)
    for part, file in files.items():
        parts[part].to_parquet(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-steps", type=int, help="instead of two epochs")
    given = parser.parse_args()
    data = Path(os.environ.get("PRUNE_DATA", "../shared/data"))
    settings = {
        "model": minilm(),
        "task.dataset": "null",
        "task.dataset_config": "null",
        "task.train_file": split(data, given.output.parent)["train"],
        "task.validation_file": data / "sst2-validation.parquet",
        "training.epochs": 2,
        "training.max_steps": given.max_steps or "null",
        "training.learning_rate": 5e-5,
        "device": "cpu",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    recipe = HERE.parent / "recipes" / "sst2.yaml"
    subprocess.run([sys.executable, str(HERE / "dense.py"), str(recipe), str(given.output), *flags], check=True)


if __name__ == "__main__":
    main()
