"""A trimmed vocabulary: the same tokens and outputs on the corpus, every kind of tokenizer, every place of a number."""

import random
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from prune_core.embeddings.vocabulary import trim_vocabulary
from prune_core.errors import ModelError

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
STEMS = ("walk", "talk", "look", "jump", "paint", "help", "open", "clean", "film", "great")
WORDS = [stem + ending for stem in STEMS for ending in ("", "s", "ed", "ing", "er", "ers")]
KINDS = ("WordPiece", "BPE", "BPE with byte fallback", "BPE with a suffix", "Unigram", "WordLevel")


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 8))) for _ in range(count)]


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Of the kind, learned from all words; the special tokens lie apart from each other."""
    first, last = ["<unk>", "<pad>"], ["<s>", "</s>", "<mask>"]
    made, trainer = {
        "WordPiece": lambda: (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer),
        "BPE": lambda: (models.BPE(unk_token="<unk>"), trainers.BpeTrainer),
        "BPE with byte fallback": lambda: (models.BPE(unk_token="<unk>", byte_fallback=True), trainers.BpeTrainer),
        "BPE with a suffix": lambda: (models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer),
        "Unigram": lambda: (models.Unigram(), trainers.UnigramTrainer),
        "WordLevel": lambda: (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer),
    }[kind]()
    found = Tokenizer(made)
    found.normalizer, found.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    options = {"unk_token": "<unk>"} if kind == "Unigram" else {}
    options |= {"end_of_word_suffix": "</w>"} if kind == "BPE with a suffix" else {}
    learned = trainer(vocab_size=140, special_tokens=first, show_progress=False, **options)
    found.train_from_iterator(sentences(WORDS, 400, 0), learned)
    found.add_special_tokens(last)
    numbers = [(name, found.token_to_id(name)) for name in ("<s>", "</s>")]
    found.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=numbers)
    return PreTrainedTokenizerFast(tokenizer_object=found, **SPECIAL)


@cache
def trimmed_to_a_word(kind: str) -> PreTrainedTokenizerFast:
    before = tokenizer(kind)
    return trim_vocabulary(model_of("bert", before), before, ["walking"]).tokenizer


def model_of(family: str, tokens: PreTrainedTokenizerFast):
    numbers = {name: getattr(tokens, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    size = {"vocab_size": len(tokens), **numbers}
    torch.manual_seed(0)
    if family == "bert":
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = BertForMaskedLM(BertConfig(**size, **small))
        torch.nn.init.normal_(model.cls.predictions.bias)
    elif family == "opt":
        small = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_attention_heads": 2}
        model = OPTForCausalLM(OPTConfig(**size, **small, num_hidden_layers=1))
    else:
        sides = {
            f"{s}_{n}": v
            for s in ("encoder", "decoder")
            for n, v in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))
        }
        start = {"decoder_start_token_id": tokens.eos_token_id, "forced_eos_token_id": tokens.eos_token_id}
        model = BartForConditionalGeneration(BartConfig(**size, **sides, **start, d_model=16))
        torch.nn.init.normal_(model.final_logits_bias)
    return model.eval()


def names_of(tokens: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokens.convert_ids_to_tokens(tokens(text)["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_has_the_same_tokens(kind: str) -> None:
    before, corpus = tokenizer(kind), sentences(WORDS[:18], 60, 1)
    trimmed = trim_vocabulary(model_of("bert", before), before, corpus)
    assert [names_of(trimmed.tokenizer, text) for text in corpus] == [names_of(before, text) for text in corpus]
    assert trimmed.kept == len(trimmed.tokenizer) < trimmed.of == len(before)
    assert sorted(trimmed.tokenizer.get_vocab().values()) == list(range(trimmed.kept))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "WordLevel"])
@settings(max_examples=15, deadline=None)
@given(text=st.text("abcdefghijklmnopqrstuvwxyz ", min_size=1))
def test_other_texts_can_still_be_written(kind: str, text: str) -> None:
    """Nothing becomes unknown that was known."""
    before, after = tokenizer(kind), trimmed_to_a_word(kind)
    unknown = before.unk_token_id in before(text)["input_ids"]
    assert unknown or after.unk_token_id not in after(text)["input_ids"]


@pytest.mark.parametrize("family", ["bert", "opt", "bart"])
def test_outputs_on_the_corpus_stay(family: str, tmp_path: Path) -> None:
    """Also after both were written and read; a logit of a kept token is what it was."""
    before, corpus = tokenizer("BPE"), sentences(WORDS[:18], 20, 2)
    model = model_of(family, before)
    inputs = before(corpus, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**inputs).logits
    trimmed = trim_vocabulary(model, before, corpus)
    model.save_pretrained(tmp_path)
    trimmed.tokenizer.save_pretrained(tmp_path)
    again, tokens = type(model).from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokens(corpus, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = again(**inputs).logits
    columns = [before.convert_tokens_to_ids(tokens.convert_ids_to_tokens(index)) for index in range(len(tokens))]
    assert torch.equal(found, expected[..., columns])
    assert again.config.vocab_size == again.get_input_embeddings().num_embeddings == trimmed.kept


def test_numbers_of_tokens_follow_in_the_configurations() -> None:
    before = tokenizer("BPE")
    model = model_of("bart", before)
    model.generation_config.eos_token_id = [before.eos_token_id, before.bos_token_id]
    after = trim_vocabulary(model, before, ["walk"]).tokenizer
    assert after.eos_token_id != before.eos_token_id
    assert model.config.pad_token_id == after.pad_token_id
    assert model.config.decoder_start_token_id == model.config.forced_eos_token_id == after.eos_token_id
    assert model.generation_config.eos_token_id == [after.eos_token_id, after.bos_token_id]
    assert after("walk")["input_ids"][0] == after.bos_token_id


def test_what_cannot_be_trimmed_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow cannot be trimmed: it has no tokenizer\.json"):
        trim_vocabulary(model_of("bert", tokenizer("BPE")), Slow(), ["walk"])
