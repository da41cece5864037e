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

from prune_core import Mask, MaskSet, compact
from prune_core.granularity import Head, Neuron
from prune_core.linears import linear
from prune_core.loading import structure_of


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_masks(model: BertForSequenceClassification, density: float) -> MaskSet:
    """Whole heads and neurons at random, about `density` of each kept."""
    masks = {}
    structure = structure_of(model)
    for unit in structure.attention:
        kept = torch.rand(unit.heads) < density
        for name in unit.linears():
            shape = tuple(linear(model, name).weight.shape)
            axis = "columns" if name == unit.output else "rows"
            masks[f"{name}.weight"] = Mask(Head(unit.head_size, axis), kept, shape)
    for unit in structure.ffn:
        kept = torch.rand(unit.size) < density
        for name, axis in ((unit.up, "rows"), (unit.down, "columns")):
            masks[f"{name}.weight"] = Mask(Neuron(1, axis), kept, tuple(linear(model, name).weight.shape))
    return MaskSet(masks)


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
    masks = random_masks(model, arguments.density)
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
