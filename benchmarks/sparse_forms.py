"""A BERT-base with zeros, computed without them, against itself dense.

    python benchmarks/sparse_forms.py [--device cuda] [--rounds 20] [--layers 12] [--output FILE]

Random weights. A share of the 32x32 blocks of its linears, left at random: none goes physically, the worst that a block
mask can do to a dense compactor. On CUDA in bfloat16 too, where two of every four weights are another pattern.
"""

import argparse
import copy
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from report import figure, report
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from prune_core.folders.loading import structure_of
from prune_core.malloc import keep_freed_memory
from prune_core.measure import dummy_inputs, paired_ratio, placed, time_calls
from prune_core.sparse import use_sparse_forms

BLOCK = 32
PLACES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
"""Device -> in which dtypes."""


def blocks(weight: Tensor, density: float) -> Tensor:
    """Which weights are left where that share of the blocks is."""
    kept = torch.rand(weight.shape[0] // BLOCK, weight.shape[1] // BLOCK) < density
    return kept.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def two_of_four(weight: Tensor, density: float) -> Tensor:
    """Which weights are left where half of every four is."""
    fours = torch.rand(weight.numel() // 4, 4)
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(1, fours.topk(2).indices, True).view_as(weight)


PATTERNS = {"32x32 blocks": blocks, "two of four": two_of_four}
DENSITIES = {"32x32 blocks": (0.5, 0.25, 0.1), "two of four": (0.5,)}


def with_zeros(pattern: str, density: float, layers: int) -> BertForSequenceClassification:
    """The model with that share of each prunable linear."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers))
    model.eval()
    for _, weight in structure_of(model).weights(model):
        weight.data *= PATTERNS[pattern](weight, density)
    return model


def figures(dense: BertForSequenceClassification, batch_size: int, rounds: int) -> dict[str, object]:
    sparse, batch = copy.deepcopy(dense), placed(dummy_inputs(dense, batch_size, 128), dense)
    chosen = use_sparse_forms(sparse, batch)
    with torch.inference_mode():
        difference = float((sparse(**batch).logits - dense(**batch).logits).abs().max())
        calls = {"dense": partial(dense, **batch), "sparse": partial(sparse, **batch)}
        seconds = time_calls(calls, rounds, dense.device, primed=True)
    return {
        "dtype": str(dense.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "length": 128,
        **figure("speedup", paired_ratio(seconds["dense"], seconds["sparse"])),
        "forms": dict(Counter(one.form for one in chosen)),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as prune does
    torch.set_num_threads(2)
    rows = [
        {"pattern": pattern, "density": density}
        | figures(with_zeros(pattern, density, given.layers).to(given.device, dtype), batch_size, given.rounds)
        for pattern, densities in DENSITIES.items()
        for density in densities
        for dtype in PLACES[given.device.type]
        for batch_size in (1, 8)
        if pattern == "32x32 blocks" or dtype == torch.bfloat16  # the other is for tensor cores alone
    ]
    found = {"what": "a BERT-base with zeros computed without them, over itself computed densely", "rows": rows}
    report(found, given.output, given.device)


if __name__ == "__main__":
    main()
