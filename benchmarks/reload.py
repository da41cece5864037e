"""from_pretrained of a compact folder against that of a dense folder of as many bytes, interleaved in one process.

    python benchmarks/reload.py [--rounds 15] [--output docs/results/reload.json]

BERT-large and a LLaMA of a billion parameters, random weights, random heads and neurons. The dense model has the same
layers, all of one size, chosen so that the two folders hold the same bytes to a percent. transformers maps the file and
reads no weight until it is used, so three times are taken: from_pretrained alone; until a first short forward ends; and
the same from the disk, after the system has dropped what it kept of the files.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from report import report
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from prune_core import compact
from prune_core.loading import structure_of
from prune_core.measure import Prepared, folder_size, paired_ratio, time_calls
from prune_core.saving import save_compact
from prune_core.structure import Attention, Unit
from prune_core.testing.sample_masks import unit_masks

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
BILLION = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 8}
MODELS: dict[str, Callable[[int], PreTrainedModel]] = {
    "BERT-large": lambda neurons: BertModel(BertConfig(**LARGE, intermediate_size=neurons)),
    "LLaMA 1B": lambda neurons: LlamaModel(LlamaConfig(**BILLION, intermediate_size=neurons)).bfloat16(),
}
NEURONS = {"BERT-large": 4096, "LLaMA 1B": 5632}


def small(name: str) -> tuple[PreTrainedModel, Callable[[Path], None]]:
    """A compact model: half of the heads and a third of the neurons of each layer, other ones in each."""
    generator = torch.Generator().manual_seed(0)

    def kept(unit: Unit) -> list[int]:
        share = 0.5 if isinstance(unit, Attention) else 1 / 3
        return (torch.rand(unit.count, generator=generator) < share).nonzero().flatten().tolist()

    model = MODELS[name](NEURONS[name])
    compaction = compact(model, unit_masks(model, kept), inplace=True)
    return compaction.model, lambda folder: save_compact(compaction, folder)


def alike(name: str, size: int) -> PreTrainedModel:
    """A dense model of as many bytes: whole attention, and neurons for what is left."""

    def parameter_bytes(neurons: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() * p.element_size() for p in MODELS[name](neurons).parameters())

    none, one = parameter_bytes(8), parameter_bytes(9)
    return MODELS[name](8 + round((size - none) / (one - none)))


def forget(folder: Path) -> None:
    """Let the system drop what it keeps of a folder's weights in memory."""
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def figures(name: str, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as work:
        folders = {side: Path(work) / side for side in ("compact", "dense")}
        model, save = small(name)
        save(folders["compact"])
        units = len(structure_of(model).units)
        alike(name, folder_size(folders["compact"])).save_pretrained(folders["dense"])

        def mapped(side: str) -> PreTrainedModel:
            return AutoModel.from_pretrained(folders[side], dtype="auto")

        def used(side: str) -> object:
            with torch.inference_mode():
                return mapped(side)(torch.arange(8)[None])

        def from_disk(side: str) -> Prepared:
            return Prepared(lambda index: forget(folders[side]), lambda _: used(side))

        found: dict[str, object] = {"model": name, "units": units}
        found["bytes"] = {side: folder_size(folder) for side, folder in folders.items()}
        ways = {
            "mapped": {side: partial(mapped, side) for side in folders},
            "first_answer": {side: partial(used, side) for side in folders},
            "first_answer_from_disk": {side: from_disk(side) for side in folders},
        }
        for what, calls in ways.items():
            seconds = time_calls(calls, rounds)
            ratio, low, high = paired_ratio(seconds["compact"], seconds["dense"])
            median = {side: round(statistics.median(values), 4) for side, values in seconds.items()}
            found[what] = {"ratio": round(ratio, 3), "interval": [round(low, 3), round(high, 3)], "seconds": median}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    found = {
        "what": "from_pretrained of a compact folder over that of a dense one of as many bytes",
        "rows": [figures(name, given.rounds) for name in MODELS],
    }
    report(found, given.output)


if __name__ == "__main__":
    main()
