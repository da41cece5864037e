"""Tiny models that write text, with a tokenizer of twelve words; and files of examples."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "a", "b", "c", "d", "e", "f", "."]
PADDING, START, END, UNKNOWN, MASK = range(5)
SPECIAL = {"pad_token_id": PADDING, "bos_token_id": START, "eos_token_id": END}
_DECODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}


def tokenizer(before: str = "<s>", behind: str = "</s>", **changes: Any) -> PreTrainedTokenizerFast:
    """Words at white space; a text alone stands between `before` and `behind`."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(token, WORDS.index(token)) for token in (before, behind) if token]
    words.post_processor = processors.TemplateProcessing(single=f"{before} $A {behind}".strip(), special_tokens=frame)
    tokens = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"} | changes
    special = {f"{name}_token": token for name, token in tokens.items() if token}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=["input_ids", "attention_mask"], **special)


def bart(**changes: Any) -> PreTrainedModel:
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32}
    fields = {**sizes, **widths, **SPECIAL, "decoder_start_token_id": END, "forced_eos_token_id": END, **changes}
    return BartForConditionalGeneration(BartConfig(vocab_size=len(WORDS), **fields))


def t5(**changes: Any) -> PreTrainedModel:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    fields = {**sizes, **SPECIAL, "decoder_start_token_id": PADDING, **changes}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(WORDS), **fields))


def opt() -> PreTrainedModel:
    return OPTForCausalLM(OPTConfig(vocab_size=len(WORDS), ffn_dim=16, word_embed_proj_dim=16, **_DECODER, **SPECIAL))


def gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 16, "n_inner": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), **sizes, **SPECIAL))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), intermediate_size=16, **_DECODER, **SPECIAL))


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(vocab_size=len(WORDS), intermediate_size=16, **_DECODER, pad_token_id=PADDING))


def save(folder: Path, model: PreTrainedModel, words: Any = None) -> str:
    """The folder of a model with its tokenizer; weights larger than new ones, so that the model has opinions."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
    return str(folder)


def write(path: Path, **columns: list[Any]) -> Path:
    """A jsonl file of these columns."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
