"""Seconds from the start of `prune run` to its first training step, over those of a bare Trainer script (1.5 asked).

    python benchmarks/first_step.py [--rounds 3] [--samples N] [--quick] [--output docs/results/first_step.json]

MiniLM on SST-2 from PRUNE_DATA, both as fresh processes in turn, at first with nothing tokenized on disk (cold), then
with what that left (warm). The clock stops when transformers' Trainer begins its first batch; the process ends there.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from minilm import minilm

DATA = Path(os.environ.get("PRUNE_DATA", "../shared/data"))


def stop_at_the_first_step() -> None:
    """Print the time and end this process when a Trainer begins its first batch; transformers is imported later."""
    import wrapt

    def patch(module: Any) -> None:
        def training_step(*_: object, **__: object) -> None:
            print(f"first step {time.time()}", flush=True)
            os._exit(0)

        module.Trainer.training_step = training_step

    wrapt.register_post_import_hook(patch, "transformers.trainer")


def bare(output: str, samples: int) -> None:
    """A fine-tuning as scripts have it."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    files = {part: str(DATA / f"sst2-{part}.parquet") for part in ("train", "validation")}
    data = load_dataset("parquet", data_files=files)
    if samples:
        data["train"] = data["train"].select(range(samples))
    data = data.map(lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=128), batched=True)
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)
    options = {"num_train_epochs": 3, "per_device_train_batch_size": 32, "learning_rate": 5e-5, "report_to": "none"}
    Trainer(
        model=model,
        args=TrainingArguments(output_dir=output, use_cpu=True, **options),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()


def pruned(output: str, samples: int) -> None:
    """The same by `prune run`."""
    from prune_cli.app import main

    flags = ["--task", "sst2", "--model", str(minilm()), "--strategy", "hybrid", "--output", output, "--device", "cpu"]
    limits = ["--set", f"task.max_train_samples={samples}"] if samples else []
    sys.exit(main(["run", *flags, *limits]))


SIDES = {"bare": bare, "prune": pruned}


def seconds_of(side: str, cache: Path, samples: int) -> float:
    """Of a fresh process, to its first training step."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, __file__, "--side", side, "--samples", str(samples), "--output", f"{output}/run"]
        environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        start = time.time()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("first step ")]
    if not lines:
        raise SystemExit(f"{side} came to no training step:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return float(lines[0].split()[-1]) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=0, help="of the training data; 0 for all 67,349")
    parser.add_argument("--quick", action="store_true", help="one round on 2000 samples")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        stop_at_the_first_step()
        SIDES[given.side](str(given.output), given.samples)
        return
    from report import report  # with what it imports, which a side would count as its own

    rounds, samples = (1, 2000) if given.quick else (given.rounds, given.samples)
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for index in range(rounds):
        pair: dict[str, dict[str, float]] = {"cold": {}, "warm": {}}
        for side in list(SIDES) if index % 2 else reversed(list(SIDES)):
            with tempfile.TemporaryDirectory() as cache:
                for state in pair:
                    pair[state][side] = round(seconds_of(side, Path(cache), samples), 2)
        for state, seconds in pair.items():
            found[state].append(seconds)
            print(state, seconds, f"{seconds['prune'] / seconds['bare']:.2f}x", flush=True)
    ratios = {state: statistics.median(one["prune"] / one["bare"] for one in pairs) for state, pairs in found.items()}
    result = {
        "what": "seconds from the start of a process to its first training step, prune run over a bare Trainer script",
        "samples": samples or "all",
        "ratio": {state: round(ratio, 3) for state, ratio in ratios.items()},
        "seconds": found,
    }
    report(result, given.output)


if __name__ == "__main__":
    main()
