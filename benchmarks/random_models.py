"""Dense models with random weights, and the same with about half of the heads and a third of the neurons left.

    python benchmarks/random_models.py WORK/bert [--tiny]     # or WORK/llama: two folders in it, dense and pruned

A BERT-base, or a LLaMA of a billion parameters in bfloat16, for what is measured of folders; --tiny: of two layers and
64 features, to try it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from prune_core import compact
from prune_core.compactor import Compaction
from prune_core.folders.saving import save_compact
from prune_core.structure import Attention, Unit
from prune_core.testing.sample_masks import unit_masks

BILLION = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 8}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 128}
MODELS: dict[str, Callable[[dict[str, int]], PreTrainedModel]] = {
    "bert": lambda sizes: BertForSequenceClassification(BertConfig(**sizes)),
    "llama": lambda sizes: LlamaForCausalLM(LlamaConfig(**BILLION | {"intermediate_size": 5632} | sizes)).bfloat16(),
}


def half(model: PreTrainedModel) -> Compaction:
    """The model, compacted in place: half of the heads and a third of the neurons of each layer, other ones in each."""
    generator = torch.Generator().manual_seed(0)

    def kept(unit: Unit) -> list[int]:
        share = 0.5 if isinstance(unit, Attention) else 1 / 3
        return (torch.rand(unit.count, generator=generator) < share).nonzero().flatten().tolist()

    return compact(model, unit_masks(model, kept), inplace=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="its name says which model")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.folder.name not in MODELS:
        parser.error(f"{given.folder} is called none of {', '.join(MODELS)}")
    torch.manual_seed(0)
    model = MODELS[given.folder.name](TINY if given.tiny else {})
    model.save_pretrained(given.folder / "dense")
    save_compact(half(model), given.folder / "pruned")


if __name__ == "__main__":
    main()
