"""from_pretrained of a compact folder against that of a dense folder of as many bytes, interleaved in one process.

    python benchmarks/reload.py [--device cuda] [--rounds 15] [--layers N] [--output docs/results/reload.json]

BERT-large and a LLaMA of a billion parameters, random weights, random heads and neurons. The dense model has the same
layers, all of one size, chosen so that the two folders hold the same bytes to a percent. transformers maps the file and
reads no weight until it is used, so three times are taken: from_pretrained alone; until a first short forward ends; and
the same from the disk, after the system has dropped what it kept of the files. On CUDA all three end there.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from random_models import BILLION, half
from report import figure, report
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from prune_core.folders.saving import save_compact
from prune_core.measure import Prepared, folder_size, paired_ratio, time_calls

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
MODELS: dict[str, Callable[[dict[str, int]], PreTrainedModel]] = {
    "BERT-large": lambda sizes: BertModel(BertConfig(**LARGE | sizes)),
    "LLaMA 1B": lambda sizes: LlamaModel(LlamaConfig(**BILLION | sizes)).bfloat16(),
}
NEURONS = {"BERT-large": 4096, "LLaMA 1B": 5632}


def alike(name: str, size: int, layers: dict[str, int]) -> PreTrainedModel:
    """A dense model of as many bytes: whole attention, and neurons for what is left."""

    def sized(neurons: int) -> PreTrainedModel:
        return MODELS[name](layers | {"intermediate_size": neurons})

    def parameter_bytes(neurons: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() * p.element_size() for p in sized(neurons).parameters())

    none, one = parameter_bytes(8), parameter_bytes(9)
    return sized(8 + round((size - none) / (one - none)))


def forget(folder: Path) -> None:
    """Let the system drop what it keeps of a folder's weights in memory."""
    for path in folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def figures(name: str, rounds: int, device: torch.device, layers: dict[str, int]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as work:
        folders = {side: Path(work) / side for side in ("compact", "dense")}
        compaction = half(MODELS[name](layers | {"intermediate_size": NEURONS[name]}))
        save_compact(compaction, folders["compact"])
        alike(name, folder_size(folders["compact"]), layers).save_pretrained(folders["dense"])

        def mapped(side: str) -> PreTrainedModel:
            model: PreTrainedModel = AutoModel.from_pretrained(folders[side], dtype="auto")
            model.to(device)
            return model

        def used(side: str) -> object:
            with torch.inference_mode():
                return mapped(side)(torch.arange(8, device=device)[None]).last_hidden_state.cpu()

        def from_disk(side: str) -> Prepared:
            return Prepared(lambda index: forget(folders[side]), lambda _: used(side))

        found: dict[str, object] = {"model": name, "units": len(compaction.units)}
        found["bytes"] = {side: folder_size(folder) for side, folder in folders.items()}
        ways = {
            "mapped": {side: partial(mapped, side) for side in folders},
            "first_answer": {side: partial(used, side) for side in folders},
            "first_answer_from_disk": {side: from_disk(side) for side in folders},
        }
        for what, calls in ways.items():
            seconds = time_calls(calls, rounds)
            median = {side: round(statistics.median(values), 4) for side, values in seconds.items()}
            found[what] = figure("ratio", paired_ratio(seconds["compact"], seconds["dense"])) | {"seconds": median}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--layers", type=int, help="fewer than they have, to try it")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    layers = {"num_hidden_layers": given.layers} if given.layers else {}
    found = {
        "what": "from_pretrained of a compact folder over that of a dense one of as many bytes",
        "rows": [figures(name, given.rounds, given.device, layers) for name in MODELS],
    }
    report(found, given.output, given.device)


if __name__ == "__main__":
    main()
