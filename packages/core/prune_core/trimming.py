"""Trim the vocabulary of a model folder to a corpus, and prove that the model puts out the same on it."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.errors import DataError, VerificationError
from prune_core.files import replacing
from prune_core.measure import folder_size
from prune_core.pretrained import load_saved
from prune_core.sentence_folder import companions
from prune_core.tasks.data import STRINGS, file_table
from prune_core.tasks.tokens import load_tokenizer
from prune_core.vocabulary import Trimmed, trim_vocabulary

_SAMPLES = 32
_LENGTH = 64
_TOLERANCE = 1e-5


def trim_folder(model: str, corpus: Path, output: Path) -> dict[str, Any]:
    """Write the model of a folder or hub name, with the tokens that the texts of a file use, to `output`.

    `corpus` is a txt file, a text a line, or a table whose columns of strings are the texts. DataError where it holds
    none or `output` exists, VerificationError, and nothing is written, where an output on its texts changed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} exists already; choose another --output")
    texts, loaded, tokenizer = corpus_texts(corpus), load_saved(model).eval(), load_tokenizer(model)
    before = _outputs(loaded, copy.deepcopy(tokenizer), texts)
    beside = companions(model, loaded)
    trimmed = trim_vocabulary(loaded, tokenizer, texts)
    difference = _difference(before, _outputs(loaded, trimmed.tokenizer, texts), trimmed)
    with replacing(output) as draft:
        loaded.save_pretrained(draft)
        trimmed.tokenizer.save_pretrained(draft)
        if beside is not None:
            beside.copy_to(draft)
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
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise DataError(f"no corpus at {path}")
        try:
            found = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}") from error
    else:
        table = file_table(path)
        columns = [name for name, kind in table.features.items() if getattr(kind, "dtype", None) in STRINGS]
        found = [text for name in columns for text in table.rows[name]]
    texts = [text for text in found if text and text.strip()]
    if not texts:
        raise DataError(f"{path} holds no text")
    return texts


def _outputs(model: PreTrainedModel, tokenizer: Any, texts: list[str]) -> list[Tensor]:
    """The first output for each of some texts; a decoder beside an encoder is given the same text."""
    found = []
    for text in islice(texts, _SAMPLES):
        inputs = tokenizer(text, truncation=True, max_length=_LENGTH, return_tensors="pt", return_token_type_ids=False)
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            found.append(model(**inputs)[0])
    return found


def _difference(before: list[Tensor], after: list[Tensor], trimmed: Trimmed) -> float:
    """Largest difference, relative to the largest value or to 1, of what both put out; logits of kept tokens only."""
    whole = [
        one[..., list(trimmed.ids)] if one.shape[-1] != other.shape[-1] else one
        for one, other in zip(before, after, strict=True)
    ]
    largest = max(1.0, *(float(one.abs().max()) for one in whole))
    difference = max(float((one - other).abs().max()) for one, other in zip(whole, after, strict=True)) / largest
    if not difference <= _TOLERANCE:
        raise VerificationError(
            f"with the trimmed vocabulary outputs on the corpus differ by {difference:.2e} (at most {_TOLERANCE}); "
            "no model was written"
        )
    return difference
