"""Trim the vocabulary of a model folder to a corpus, and prove that the model puts out the same on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.embeddings.vocabulary import Trimmed, trim_vocabulary
from prune_core.errors import DataError, VerificationError
from prune_core.files import refuse_occupied, replacing
from prune_core.folders.card import carry_card
from prune_core.folders.pretrained import load_saved, read_config
from prune_core.folders.sentence_transformers import companions
from prune_core.measure import folder_size
from prune_core.tasks.data import file_table
from prune_core.tasks.texts import text_columns
from prune_core.tasks.tokens import load_tokenizer
from prune_core.verification.verify import largest_difference, outputs

_SAMPLES = 32
_LENGTH = 64
_TOLERANCE = 1e-5


def trim_folder(model: str, corpus: Path, output: Path) -> dict[str, Any]:
    """Write the model of a folder or hub name, with the tokens that the texts of a file use, to `output`.

    `corpus` is a txt file, a text a line, or a table whose columns of strings are the texts. DataError where it holds
    none or `output` exists, VerificationError, and nothing is written, where an output on its texts changed.
    """
    refuse_occupied(output)
    texts, loaded, tokenizer = corpus_texts(corpus), load_saved(model), load_tokenizer(model)
    before = outputs(loaded, _inputs(loaded, copy.deepcopy(tokenizer), texts))
    beside = companions(model, loaded)
    trimmed = trim_vocabulary(loaded, tokenizer, texts)
    difference = _proven(before, outputs(loaded, _inputs(loaded, trimmed.tokenizer, texts)), trimmed)
    own = read_config(model).dtype
    if isinstance(own, torch.dtype):  # proven in float32; back in its own dtype no weight is another one
        nn.Module.to(loaded, dtype=own)
    with replacing(output) as draft:
        loaded.save_pretrained(draft)
        trimmed.tokenizer.save_pretrained(draft)
        if beside is not None:
            beside.copy_to(draft)
        carry_card(model, draft)
        _reloads(draft, loaded, list(_inputs(loaded, trimmed.tokenizer, texts)))
    return {
        "output": str(output),
        "tokens": trimmed.kept,
        "tokens before": trimmed.of,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "bytes": folder_size(output),
        "difference": difference,
    }


def corpus_texts(path: Path) -> list[str]:
    """The texts of a file: lines, or what the columns of strings hold. DataError where there are none."""
    return [text for texts in texts_by_column(path).values() for text in texts]


def texts_by_column(path: Path) -> dict[str, list[str]]:
    """Column of strings -> its texts; the lines of a txt file have no name. DataError where a file holds none."""
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise DataError(f"no corpus at {path}")
        try:
            found = {"": path.read_text(encoding="utf-8").splitlines()}
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}") from error
    else:
        table = file_table(path)
        found = {name: table.rows[name] for name in text_columns(table)}
    texts = {name: [text for text in column if text and text.strip()] for name, column in found.items()}
    if not any(texts.values()):
        raise DataError(f"{path} holds no text")
    return texts


def _inputs(model: PreTrainedModel, tokenizer: Any, texts: list[str]) -> Iterator[dict[str, Tensor]]:
    """Some of the texts as inputs, one a batch; a decoder beside an encoder is given the same text."""
    for text in islice(texts, _SAMPLES):
        tokens = tokenizer(text, truncation=True, max_length=_LENGTH, return_tensors="pt", return_token_type_ids=False)
        decoder = {"decoder_input_ids": tokens["input_ids"]} if model.config.is_encoder_decoder else {}
        yield {**tokens, **decoder}


def _reloads(folder: Path, model: PreTrainedModel, inputs: list[dict[str, Tensor]]) -> None:
    """VerificationError where what was saved to a folder does not compute exactly what `model` does."""
    difference = largest_difference(outputs(model, inputs), outputs(load_saved(str(folder), "auto"), inputs))
    if difference:
        raise VerificationError(
            f"reloaded, the trimmed model's outputs differ by {difference:.2e}; no model was written"
        )


def _proven(before: list[Tensor], after: list[Tensor], trimmed: Trimmed) -> float:
    """Largest difference, relative to the largest value or to 1, of what both put out; logits of kept tokens only."""
    pairs = zip(before, after, strict=True)
    whole = [one if one.shape == other.shape else one[..., list(trimmed.ids)] for one, other in pairs]
    difference = largest_difference(whole, after) / max(1.0, *(float(one.abs().max()) for one in whole))
    if not difference <= _TOLERANCE:
        raise VerificationError(
            f"with the trimmed vocabulary outputs on the corpus differ by {difference:.2e} (at most {_TOLERANCE}); "
            "no model was written"
        )
    return difference
