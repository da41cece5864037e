"""Compacting a BERT-large-sized model: seconds, and peak memory over the model's own size.

    python benchmarks/compaction.py [--density 0.35] [--output docs/results/compaction.json]

Random weights, random whole heads and neurons. Memory is the process's peak above what it held before the model,
over the bytes of the model; the masked model stays as it was beside the compact one.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from report import report
from transformers import BertConfig, BertForSequenceClassification

from prune_core import compact
from prune_core.testing.sample_masks import unit_masks


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--density", type=float, default=0.35)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    before = peak_bytes()
    model = BertForSequenceClassification(BertConfig(**large)).eval()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    masks = unit_masks(model, lambda unit: (torch.rand(unit.count) < arguments.density).nonzero().flatten().tolist())
    start = time.perf_counter()
    compaction = compact(model, masks)
    seconds = time.perf_counter() - start
    result = {
        "what": "compacting a BERT-large-sized model",
        "seconds": round(seconds, 2),
        "peak_over_model": round((peak_bytes() - before) / size, 2),
        "model_bytes": size,
        "density": round(compaction.density, 3),
    }
    report(result, arguments.output)


if __name__ == "__main__":
    main()
