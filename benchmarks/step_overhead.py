"""What a fine-pruning step costs over the dense step: MiniLM, batch 32, length 64, no teacher, topk included.

    python benchmarks/step_overhead.py [--length 64] [--rounds 20] [--output docs/results/step_overhead.json]

All cases run in one process, one step each in turn; the figure is the median of the ratios to the dense step of
the same round. Each strategy stands in the moving part of its schedule, where its masks are recomputed at every step.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from dense_sst2 import minilm
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from prune_core import Pruning
from prune_core.measure import machine

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "structured": ("structured", {}),
    "structured topk": ("structured", {"binarizer": "topk"}),
    "hybrid": ("hybrid", {}),
    "hybrid topk": ("hybrid", {"binarizer": "topk"}),
    "block": ("block", {}),
    "block topk": ("block", {"binarizer": "topk"}),
    "unstructured topk": ("unstructured", {}),
}


def stepper(base: PreTrainedModel, batch: dict[str, torch.Tensor], case: str) -> Callable[[], float]:
    """One optimizer step of a case; returns its seconds."""
    model = copy.deepcopy(base).train()
    pruning = None
    groups: object = [{"params": list(model.parameters())}]
    if case != "dense":
        strategy, options = CASES[case]
        pruning = Pruning(model, strategy, total_steps=1000, density=0.35, **options)
        pruning.resume(200)
        groups = pruning.parameter_groups(lr=1e-5, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)

    def step() -> float:
        start = time.perf_counter()
        loss = model(**batch).loss
        (loss + pruning.penalty() if pruning else loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        if pruning:
            pruning.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(minilm(), dtype="float32", num_labels=2)
    ids = torch.randint(1000, 20000, (arguments.batch_size, arguments.length))
    labels = torch.randint(2, (arguments.batch_size,))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    ratios: dict[str, list[float]] = {case: [] for case in CASES}
    for case in CASES:  # two models at a time: eight of them would be measured through the memory, not the step
        dense, pruned = stepper(base, batch, "dense"), stepper(base, batch, case)
        for index in range(-2, arguments.rounds):
            pair = (pruned(), dense()) if index % 2 else tuple(reversed((dense(), pruned())))
            if index >= 0:
                ratios[case].append(pair[0] / pair[1])
        print(f"{case}: {statistics.median(ratios[case]):.3f}", flush=True)
    result = {
        "what": "seconds of a fine-pruning step over a dense step, median of paired rounds",
        "batch_size": arguments.batch_size,
        "length": arguments.length,
        "rounds": arguments.rounds,
        "ratio": {case: round(statistics.median(found), 3) for case, found in ratios.items()},
        "quartiles": {case: [round(q, 3) for q in statistics.quantiles(found, n=4)] for case, found in ratios.items()},
        "machine": machine(torch.device("cpu")).__dict__,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
