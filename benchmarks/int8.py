"""int8 after pruning, in ONNX Runtime: accuracy, bytes and speed of a dense and a pruned model, rounded and not.

    python benchmarks/int8.py DENSE PRUNED VALIDATION TRAIN [--rounds 15] [--output docs/results/int8.json]

DENSE and PRUNED are folders of sequence classifiers, VALIDATION and TRAIN parquet files with `sentence` and `label`:
128 training examples calibrate. All of them are timed interleaved in one process, on the same random batches.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from report import report
from transformers import AutoTokenizer

from prune_core.exporting import Wanted, export_folder, load_exported
from prune_core.exporting.batches import dummy
from prune_core.folders.pretrained import load_saved
from prune_core.malloc import keep_freed_memory
from prune_core.measure import paired_ratio, time_calls
from prune_core.recipe import MeasureSection, TaskSection

KINDS = {"float32": None, "dynamic": "dynamic", "calibrated": "calibrated"}
QUICK = MeasureSection(batch_size=1, length=8, rounds=3)
"""export_folder times each by itself too, which is of no use here."""


def accuracy(facts: dict[str, Any]) -> dict[str, float]:
    """Of an export that is rounded: its accuracy, and that before it was."""
    return {when: round(facts["int8"][when]["accuracy"], 4) for when in ("float32", "int8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dense", "pruned", "validation", "train"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as prune does
    torch.set_num_threads(2)
    task = TaskSection(name="sst2", train_file=given.train, validation_file=given.validation)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for side, source in (("dense", given.dense), ("pruned", given.pruned)):
            for name, kind in KINDS.items():
                folder = folders[f"{side} {name}"] = Path(place) / side / name
                facts = export_folder(str(source), folder, Wanted("onnx", kind, task=task, measure=QUICK))
                rows.append({"model": side, "precision": name, "bytes": facts["files"]["model.onnx"]})
                if kind:
                    rows[-1] |= {"accuracy": accuracy(facts)["int8"], "same_decisions": facts["int8"]["same_decisions"]}
                    rows[-2 if kind == "dynamic" else -3]["accuracy"] = accuracy(facts)["float32"]
        inputs = AutoTokenizer.from_pretrained(given.dense).model_input_names
        model = load_saved(str(given.dense))
        for batch_size in (8, 1):
            batch = dummy(model, batch_size, 128, inputs)
            calls = {key: partial(load_exported(folder), batch) for key, folder in folders.items()}
            seconds = time_calls(calls, given.rounds, primed=True)
            for row in rows:
                ratio = paired_ratio(seconds["dense float32"], seconds[f"{row['model']} {row['precision']}"])
                ends = (ratio.value, ratio.low, ratio.high)
                row[f"speedup_at_batch_{batch_size}"] = [round(value, 3) for value in ends]
    found = {
        "what": "sequence classifiers in ONNX Runtime; speed-up (with its interval) over the dense one in float32",
        "length": 128,
        "rounds": given.rounds,
        "rows": rows,
    }
    report(found, given.output)


if __name__ == "__main__":
    main()
