"""Small untrained models with a tokenizer or image processor of their own, for the rows that start from scratch.

    python benchmarks/small_models.py NAME OUTPUT        # NAME: multi30k, dialogsum, shakespeare, cifar10

The tokenizers (byte-pair encoding) are learned from the training texts under PRUNE_DATA.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = {"multi30k": ("en", "de"), "dialogsum": ("document", "summary"), "shakespeare": ("text",)}
VOCABULARY = {"multi30k": 6000, "dialogsum": 6000, "shakespeare": 3000}
SOURCE_LENGTH = {"multi30k": 128, "dialogsum": 512}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def texts(name: str) -> Iterator[str]:
    data = Path(os.environ.get("PRUNE_DATA", "../shared/data")) / f"{name}-train.parquet"
    rows = load_dataset("parquet", data_files=str(data), split="train")
    for column in TEXTS[name]:
        yield from rows[column]


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding; texts are put between <s> and </s>."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts(name), trainers.BpeTrainer(vocab_size=VOCABULARY[name], special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names, model_max_length=SOURCE_LENGTH.get(name, 128))


def translator(name: str) -> PreTrainedModel:
    """BART: for translation of 3 and 3 layers of 256 features, for summaries, whose texts are long, 2 and 2 of 128."""
    layers, size = (3, 256) if name == "multi30k" else (2, 128)
    one_side = {"layers": layers, "attention_heads": size // 64, "ffn_dim": 4 * size}
    sides = {f"{side}_{field}": value for side in ("encoder", "decoder") for field, value in one_side.items()}
    numbers = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(
        vocab_size=VOCABULARY[name],
        d_model=size,
        max_position_embeddings=SOURCE_LENGTH[name],
        forced_eos_token_id=2,
        **sides,
        **numbers,
    )
    return BartForConditionalGeneration(config)


def writer(name: str) -> PreTrainedModel:
    """OPT of 4 layers, 256 features, 4 heads, 1024 neurons."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY[name],
            hidden_size=256,
            word_embed_proj_dim=256,
            num_hidden_layers=4,
            ffn_dim=1024,
            num_attention_heads=4,
            max_position_embeddings=128,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
    )


def classifier() -> PreTrainedModel:
    """ViT of 6 layers, 192 features, 6 heads, 768 neurons, patches of 4x4 pixels of 32x32."""
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=6,
            intermediate_size=768,
            image_size=32,
            patch_size=4,
            initializer_range=0.06,
            id2label=dict(enumerate(CLASSES)),
            label2id={name: index for index, name in enumerate(CLASSES)},
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*TEXTS, "cifar10"])
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    set_seed(0)
    processor: Any
    if given.name == "cifar10":
        model, processor = classifier(), ViTImageProcessorPil(size={"height": 32, "width": 32}, do_resize=False)
    else:
        model = writer(given.name) if given.name == "shakespeare" else translator(given.name)
        processor = tokenizer(given.name)
    model.save_pretrained(given.output)
    processor.save_pretrained(given.output)


if __name__ == "__main__":
    main()
