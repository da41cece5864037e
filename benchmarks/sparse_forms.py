"""A BERT-base that kept a share of the 32x32 blocks of its linears, computed without its zeros, against itself dense.

    python benchmarks/sparse_forms.py [--rounds 20] [--output docs/results/sparse_forms.json]

Random weights, blocks left at random: none goes physically, the worst that a block mask can do to a dense compactor.
"""

import argparse
import copy
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from report import report
from transformers import BertConfig, BertForSequenceClassification

from prune_core.loading import structure_of
from prune_core.measure import dummy_inputs, paired_ratio, time_calls
from prune_core.sparse import use_sparse_forms

BLOCK = 32


def blocks_left(density: float) -> BertForSequenceClassification:
    """The model with that share of the blocks of each prunable linear."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig()).eval()
    for _, weight in structure_of(model).weights(model):
        kept = torch.rand(weight.shape[0] // BLOCK, weight.shape[1] // BLOCK) < density
        weight.data *= kept.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return model


def figures(density: float, batch_size: int, rounds: int) -> dict[str, object]:
    dense = blocks_left(density)
    sparse, batch = copy.deepcopy(dense), dummy_inputs(dense, batch_size, 128)
    chosen = use_sparse_forms(sparse, batch)
    with torch.inference_mode():
        difference = float((sparse(**batch).logits - dense(**batch).logits).abs().max())
        seconds = time_calls({"dense": partial(dense, **batch), "sparse": partial(sparse, **batch)}, rounds)
    ratio, low, high = paired_ratio(seconds["dense"], seconds["sparse"])
    return {
        "density": density,
        "batch_size": batch_size,
        "length": 128,
        "speedup": round(ratio, 3),
        "interval": [round(low, 3), round(high, 3)],
        "forms": dict(Counter(one.form for one in chosen)),
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    rows = [figures(density, batch, given.rounds) for density in (0.5, 0.25, 0.1) for batch in (1, 8)]
    found = {
        "what": "a BERT-base of 32x32 blocks computed without its zeros, over itself computed densely",
        "rows": rows,
    }
    report(found, given.output)


if __name__ == "__main__":
    main()
