"""What a fine-pruning step costs over the dense step: MiniLM, batch 32, no teacher, topk included, against the bars.

    python benchmarks/step_overhead.py [--lengths 64 24] [--rounds 20] [--quick] [--random] [--device cuda]
        [--output FILE]

Each case runs beside the dense step in one process, interleaved; the figure is the median of the ratios of the rounds.
Each strategy stands in the moving part of its schedule, where its masks are recomputed at every step; the two rows
"masks final" in the rest, where a density of 0.35 has been reached. On a CPU neurons that are closed are not computed,
and freed memory is kept, of both sides, as `prune run` has it (--return-memory: as any other process has it).
--random: MiniLM's sizes with random weights, where MiniLM is not installed; its masks close as many neurons.
All of it takes some ten minutes on two cores; --quick, with five rounds of the strategies' own binarizers, two.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from minilm import SIZES, minilm
from report import figure, report
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, PreTrainedModel

from prune_core import Pruning
from prune_core.malloc import keep_freed_memory
from prune_core.measure import paired_ratio, time_calls

BATCH_SIZE = 32
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "structured": ("structured", {}),
    "structured topk": ("structured", {"binarizer": "topk"}),
    "hybrid": ("hybrid", {}),
    "hybrid topk": ("hybrid", {"binarizer": "topk"}),
    "block": ("block", {}),
    "block topk": ("block", {"binarizer": "topk"}),
    "unstructured topk": ("unstructured", {}),
    "structured, masks final": ("structured", {}),
    "hybrid, masks final": ("hybrid", {}),
}
STEPS, MOVING = 1000, 200
QUICK = ("structured", "hybrid", "block", "unstructured topk")
BARS = {64: {"structured": 1.03, "hybrid": 1.03, "block": 1.06, "unstructured": 1.06}}
BARS[24] = {"structured": 1.06, "hybrid": 1.06, "block": 1.12, "unstructured": 1.12}
"""Length -> strategy -> what was asked for."""


def stepper(base: PreTrainedModel, batch: dict[str, torch.Tensor], case: str) -> Callable[[], None]:
    """One optimizer step of a case."""
    model = copy.deepcopy(base).to(batch["input_ids"].device).train()
    pruning = None
    groups: object = [{"params": list(model.parameters())}]
    if case != "dense":
        strategy, options = CASES[case]
        pruning = Pruning(model, strategy, total_steps=STEPS, density=0.35, **options)
        config: Any = pruning.strategy.config
        final = round((1 - config.cooldown) * STEPS)
        pruning.resume(final if "final" in case else MOVING)
        groups = pruning.parameter_groups(lr=1e-5, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, lr=1e-5, fused=True)

    def step() -> None:
        loss = model(**batch).loss
        (loss + pruning.penalty() if pruning else loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        if pruning:
            pruning.step()

    return step


def measured(base: PreTrainedModel, length: int, case: str, rounds: int, device: torch.device) -> dict[str, object]:
    """The figure of a case at a length. Two models at a time: more would be measured through the memory."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (BATCH_SIZE, length), generator=generator)
    labels = torch.randint(2, (BATCH_SIZE,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    batch = {name: value.to(device) for name, value in batch.items()}
    steps = {name: stepper(base, batch, name) for name in ("dense", case)}
    seconds = time_calls(steps, rounds, device)
    ratio = paired_ratio(seconds[case], seconds["dense"])
    bar = None if "final" in case else BARS.get(length, {}).get(CASES[case][0])
    return figure("ratio", ratio) | {"bar": bar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 24])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--return-memory", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not arguments.return_memory:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    base = (
        BertForSequenceClassification(BertConfig(**SIZES))
        if arguments.random
        else AutoModelForSequenceClassification.from_pretrained(minilm(), dtype="float32", num_labels=2)
    )
    rounds = min(arguments.rounds, 5) if arguments.quick else arguments.rounds
    found: dict[int, dict[str, object]] = {}
    for length in arguments.lengths:
        for case in QUICK if arguments.quick else CASES:
            found.setdefault(length, {})[case] = measured(base, length, case, rounds, arguments.device)
            print(length, case, found[length][case], flush=True)
    result = {
        "what": "seconds of a fine-pruning step over a dense step, median of paired rounds",
        "batch_size": BATCH_SIZE,
        "rounds": rounds,
        "lengths": found,
    }
    report(result, arguments.output, arguments.device)


if __name__ == "__main__":
    main()
