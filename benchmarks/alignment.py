"""Do a few more neurons pay? Feed-forward units of BERT-base at sizes of any kind against the next multiples.

    python benchmarks/alignment.py [--device cpu] [--threads 1] [--rounds 20] [--layers 12] [--output FILE]

Each unit is timed by itself, up, GELU and down, in batches of 128 tokens; then a whole BERT-base of random sizes as the
masks leave it, against the same with what `--align auto` chose for it.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from report import figure, report
from transformers import BertConfig, BertForSequenceClassification

from prune_core.compaction import compact
from prune_core.compaction.alignment import MULTIPLES, align, gains_of, multiple
from prune_core.compaction.dense import DenseCompactor
from prune_core.folders.loading import structure_of
from prune_core.malloc import keep_freed_memory
from prune_core.measure import dummy_inputs, paired_ratio, pick_device, placed, time_calls
from prune_core.recipe import Recipe
from prune_core.structure import FeedForward
from prune_core.testing.sample_masks import unit_masks

LENGTH = 128
SIZES = (67, 150, 293, 511, 1021, 2043)


def of_one_unit(
    model: BertForSequenceClassification, size: int, batch_size: int, rounds: int, device: torch.device
) -> list[dict[str, object]]:
    """A row for each of the next multiples: how many times faster it is than the size itself, in the model's dtype."""
    unit = structure_of(model).ffn[0]
    given = torch.randn(batch_size, LENGTH, model.config.hidden_size, device=device, dtype=model.dtype)
    tried = sorted({multiple(size, of, unit.size) for of in MULTIPLES} - {size})
    found = gains_of(model, unit, given, rounds, [size, *tried])
    return [
        {
            "neurons": size,
            "aligned": more,
            "batch_size": batch_size,
            "dtype": str(model.dtype).removeprefix("torch."),
            **figure("speedup", ratio),
            "faster": ratio.low > 1,
        }
        for more, ratio in found.items()
    ]


def of_a_model(
    dtype: torch.dtype, batch_size: int, rounds: int, device: torch.device, layers: int
) -> dict[str, object]:
    """A BERT-base of random sizes, by `--align auto` against none."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers)).eval().to(dtype)
    sizes = {unit.key: int(torch.randint(150, 1200, ())) for unit in structure_of(model).ffn}
    masks = unit_masks(model, lambda unit: range(sizes[unit.key]) if isinstance(unit, FeedForward) else None)
    kind = str(dtype).removeprefix("torch.")
    settings = {"batch_size": batch_size, "length": LENGTH, "rounds": rounds, "dtype": kind}
    recipe = Recipe.parse({"align": "auto", "device": device.type, "measure": settings})
    found = align(model, masks, structure_of(model), recipe)
    sides = {
        "ragged": compact(model, masks).model.to(device),
        "aligned": compact(model, masks, found.applied(DenseCompactor())).model.to(device),
    }
    batch = placed(dummy_inputs(model, batch_size, LENGTH), sides["ragged"])
    with torch.inference_mode():
        seconds = time_calls(
            {name: partial(side, **batch) for name, side in sides.items()}, rounds, device, primed=True
        )
    return {
        "batch_size": batch_size,
        "dtype": kind,
        "sizes": [[one.needed, one.kept, round(one.gain or 1, 3)] for one in found.sizes],
        "units_aligned": sum(len(one.units) for one in found.sizes if one.kept > one.needed),
        **figure("speedup", paired_ratio(seconds["ragged"], seconds["aligned"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--layers", type=int, default=12, help="of the whole BERT")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as prune does
    torch.set_num_threads(given.threads)
    device = pick_device(given.device)
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    rows, models = [], []
    for dtype in dtypes:
        unit = BertForSequenceClassification(BertConfig(num_hidden_layers=1)).eval().to(dtype)
        for batch in (1, 8):
            rows += [row for size in SIZES for row in of_one_unit(unit, size, batch, given.rounds, device)]
            models.append(of_a_model(dtype, batch, given.rounds, device, given.layers))
    found = {
        "what": "a feed-forward unit of BERT-base with a few more neurons, over itself; then all of a BERT-base",
        "units": rows,
        "models": models,
    }
    report(found, given.output, device)


if __name__ == "__main__":
    main()
