"""Tokenizers, how long a text may be, and token features that are kept on disk from one run to the next."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.fingerprint import Hasher
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedConfig

from prune_core import __version__
from prune_core.errors import ModelError, brief
from prune_core.folders.pretrained import usable_length
from prune_core.tasks.data import Table

logger = logging.getLogger(__name__)


def load_tokenizer(model: str, **options: Any) -> Any:
    """The tokenizer of a model folder or hub name; ModelError where there is none."""
    try:
        found = AutoTokenizer.from_pretrained(model, trust_remote_code=False, **options)
    except Exception as error:  # a missing vocabulary shows up as almost any error
        raise ModelError(f"{model} holds no tokenizer that can be read: {brief(error)}") from error
    if is_invented(found, model):
        raise ModelError(f"{model} holds no tokenizer: none of its files is there")
    return found


def is_invented(tokenizer: Any, model: str | Path) -> bool:
    """Whether nothing of this tokenizer is in the folder: transformers makes up one that knows its own marks alone."""
    names = {"tokenizer_config.json", "tokenizer.json", *getattr(type(tokenizer), "vocab_files_names", {}).values()}
    return Path(model).is_dir() and not any((Path(model) / name).is_file() for name in names)


def load_word_tokenizer(model: str) -> Any:
    """The tokenizer of a model, for texts that are lists of words; ModelError where it cannot tell words apart.

    Byte-level tokenizers, such as RoBERTa's, write the space before a word into it: here every word gets one. Without
    it they would read words as pieces from the middle of others.
    """
    tokenizer = load_tokenizer(model)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{model}: its tokenizer {type(tokenizer).__name__} cannot say which word a token is of; "
            "it needs a fast one (tokenizer.json)"
        )
    if not all(step.add_prefix_space for step in _byte_levels(tokenizer)):
        tokenizer = load_tokenizer(model, add_prefix_space=True)
        for step in _byte_levels(tokenizer):  # the generic class takes no notice of the option
            step.add_prefix_space = True
    return tokenizer


def with_padding(tokenizer: Any, model: str) -> Any:
    """The tokenizer, told to pad by the token that ends a text where it has no other to pad by (GPT-2, LLaMA).

    ModelError where it has neither.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"{model}: its tokenizer has no padding token, and none that ends a text to take for it; texts could "
                "not be put in a batch: give it a pad_token"
            )
        logger.info("%s has no padding token: texts are padded by %r, which ends them", model, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def length_limit(asked: int, tokenizer: Any, config: PreTrainedConfig) -> int:
    """Tokens at which a text is cut: what was asked for, or less where tokenizer or model take less."""
    limits: list[int | None] = [asked, tokenizer.model_max_length, usable_length(config)]
    return min(limit for limit in limits if limit is not None)


def tokenized(table: Table, function: Callable[..., dict[str, Any]], **options: Any) -> Dataset:
    """The features that `function(batch, **options)` makes of the rows of a table, `tokenizer` among the options.

    datasets keeps them on disk. It names what it keeps by a hash of the arguments, in which a tokenizer that has been
    used is another one than before: here the name follows from what decides the features.
    """
    decisive = {name: value for name, value in options.items() if name != "tokenizer"}
    identity = _identity(options["tokenizer"])
    known = [__version__, function.__module__, function.__qualname__, table.rows._fingerprint, identity, decisive]
    return table.rows.map(
        function,
        batched=True,
        remove_columns=table.columns,
        fn_kwargs=options,
        new_fingerprint=Hasher.hash(known),
        desc="tokenizing",
    )


def _byte_levels(tokenizer: Any) -> Iterator[Any]:
    """The steps of a tokenizer that turn texts into bytes."""
    first: Any = tokenizer.backend_tokenizer.pre_tokenizer
    steps: list[Any] = [*first] if isinstance(first, pre_tokenizers.Sequence) else [first]  # type: ignore[misc]
    return (step for step in steps if isinstance(step, pre_tokenizers.ByteLevel))


def _identity(tokenizer: Any) -> Any:
    """What decides the tokens of a text, and nothing that using the tokenizer changes."""
    settings = {"class": type(tokenizer).__name__, "special": tokenizer.special_tokens_map}
    if not tokenizer.is_fast:
        return {**settings, "vocabulary": tokenizer.get_vocab(), "options": repr(tokenizer.init_kwargs)}
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return {**settings, "rules": {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}}
