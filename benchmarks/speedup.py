"""Measured CPU speed-up of compact models over what their FLOPs promise: batch 8, length 128, random weights.

    python benchmarks/speedup.py [--rounds 20] [--output docs/results/speedup.json]

MiniLM's and BERT-base's shapes, with random heads and neurons (in multiples of eight) in every layer at three
densities each. A model and its dense self run in turn; the figure is the median of the ratios of the rounds.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from prune_core.compaction.resize import resize
from prune_core.loading import structure_of
from prune_core.measure import compare, machine
from prune_core.recipe import MeasureSection
from prune_core.structure import Attention

SHAPES = {
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
}
DENSITIES = (0.5, 0.35, 0.22)


def smaller(dense: BertForSequenceClassification, density: float) -> tuple[BertForSequenceClassification, float]:
    """A copy with random sizes in every layer, and the density that came of it."""
    model, structure = copy.deepcopy(dense), structure_of(dense)
    generator = torch.Generator().manual_seed(0)
    for unit in structure.units:
        share = density * (0.5 + float(torch.rand(1, generator=generator)))
        if isinstance(unit, Attention):
            resize(model, unit, range(max(round(share * unit.heads), 1)))
        else:
            resize(model, unit, range(max(round(min(share, 1.0) * unit.size / 8), 1) * 8))
    return model, structure_of(model).size(model) / structure.size(dense)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        dense = BertForSequenceClassification(BertConfig(**shape)).eval()
        for wanted in DENSITIES:
            model, density = smaller(dense, wanted)
            section = MeasureSection(batch_size=8, length=128, rounds=arguments.rounds)
            found = compare(model, dense, section, "cpu")
            rows.append(
                {
                    "shape": name,
                    "density": round(density, 3),
                    "speedup": round(found.speedup, 2),
                    "interval": [round(found.speedup_low, 2), round(found.speedup_high, 2)],
                    "flop_ratio": round(found.flop_ratio, 2),
                    "share": round(found.speedup / found.flop_ratio, 3),
                }
            )
            print(rows[-1], flush=True)
    result = {
        "what": "measured speed-up, what the FLOPs of the whole model promise, and their ratio (0.88 asked, to 4x)",
        "batch_size": 8,
        "length": 128,
        "rows": rows,
        "machine": machine(torch.device("cpu")).__dict__,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
