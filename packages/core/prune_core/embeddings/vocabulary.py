"""Keep of a vocabulary what a corpus uses: tokenizer and embeddings in step, the same outputs on that corpus.

Beside the tokens of the corpus, special tokens and single characters (or bytes) stay, so that every text can still be
written. In a byte-pair encoding the tokens that a kept one is merged from stay as well. Taking others away changes no
text of the corpus: a longest match, a merge or a best path that was chosen is still there, and nothing new is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from prune_core.errors import ModelError

_BATCH = 1000
_RULES = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_REBUILT_FROM = ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Files that hold the whole vocabulary once more."""


@dataclass(frozen=True)
class Trimmed:
    """A trimmed tokenizer, the numbers that its tokens had before, in its order, and how many there were."""

    tokenizer: Any
    ids: tuple[int, ...]
    of: int

    @property
    def kept(self) -> int:
        return len(self.ids)


def trim_vocabulary(model: PreTrainedModel, tokenizer: Any, texts: Iterable[str]) -> Trimmed:
    """Keep in `model`, in place, and in a new tokenizer the tokens that `texts` use.

    ModelError for a tokenizer without tokenizer.json, or a kind of vocabulary that cannot be cut.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the vocabulary of {type(tokenizer).__name__} cannot be trimmed: it has no {_RULES}; "
            "convert it to a fast tokenizer first"
        )
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rows = model.get_input_embeddings().num_embeddings
    names = {index: name for name, index in tokenizer.get_vocab().items() if index < rows}
    used = _used(tokenizer, texts) | _always(rules, names)
    kept = sorted(index for index in _closed(rules["model"], used, names) if index in names)
    new = {old: index for index, old in enumerate(kept)}
    trimmed = _rewritten(tokenizer, rules, new, names)
    _cut_embeddings(model, kept)
    _renumber(model, new)
    return Trimmed(trimmed, tuple(kept), len(names))


def _used(tokenizer: Any, texts: Iterable[str]) -> set[int]:
    found: set[int] = set()
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        for tokens in tokenizer(batch, truncation=False, padding=False)["input_ids"]:
            found.update(tokens)
    return found


def _always(rules: Mapping[str, Any], names: Mapping[int, str]) -> set[int]:
    """Added tokens, the unknown token, and everything that stands for one character or byte."""
    kind = rules["model"]
    prefix = kind.get("continuing_subword_prefix") or ""
    suffix = kind.get("end_of_word_suffix") or ""
    short = {i for i, name in names.items() if len(name.removeprefix(prefix).removesuffix(suffix)) <= 1}
    byte = {i for i, name in names.items() if len(name) == 6 and name.startswith("<0x")}
    unknown = {i for i, name in names.items() if name == kind.get("unk_token")} | {kind.get("unk_id")}
    return short | byte | {token["id"] for token in rules["added_tokens"]} | {i for i in unknown if i is not None}


def _closed(kind: Mapping[str, Any], used: set[int], names: Mapping[int, str]) -> set[int]:
    """`used` and, in a byte-pair encoding, all that these tokens are merged from."""
    if kind["type"] not in ("WordPiece", "WordLevel", "Unigram", "BPE"):
        raise ModelError(f"a vocabulary of the kind {kind['type']} cannot be trimmed; WordPiece, BPE or Unigram can")
    if kind["type"] != "BPE":
        return used
    if kind.get("continuing_subword_prefix"):
        raise ModelError("a byte-pair encoding with a continuing_subword_prefix cannot be trimmed")
    rank = {tuple(pair): index for index, pair in enumerate(_pairs(kind))}
    ids = {name: index for index, name in names.items()}
    suffix = kind.get("end_of_word_suffix") or ""
    parts = {part for index in used if index in names for part in _merged_from(names[index], rank, suffix)}
    return used | {ids[part] for part in parts if part in ids}


def _pairs(kind: Mapping[str, Any]) -> Iterator[list[str]]:
    """Merges, which older files write as one string."""
    for merge in kind["merges"]:
        yield merge.split(" ") if isinstance(merge, str) else merge


def _merged_from(token: str, rank: Mapping[tuple[str, ...], int], suffix: str) -> Iterator[str]:
    """Every token that arises while `token` is merged, its characters first."""
    symbols = list(token.removesuffix(suffix))
    if suffix and token.endswith(suffix) and symbols:
        symbols[-1] += suffix
    yield from symbols
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            return
        at = list(pairwise(symbols)).index(best)
        symbols[at : at + 2] = ["".join(best)]
        yield symbols[at]


def _rewritten(tokenizer: Any, rules: dict[str, Any], new: Mapping[int, int], names: Mapping[int, str]) -> Any:
    """The tokenizer of the kept tokens under their new numbers."""
    kept = {names[old]: index for old, index in new.items()}
    rules = {**rules, "truncation": None, "padding": None, "model": _vocabulary(rules["model"], kept)}
    rules["added_tokens"] = [{**t, "id": new[t["id"]]} for t in rules["added_tokens"] if t["id"] in new]
    rules["post_processor"] = _renumbered(rules["post_processor"], kept)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        path = Path(folder)
        for name in _REBUILT_FROM:
            (path / name).unlink(missing_ok=True)
        (path / _RULES).write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
        added = settings.get("added_tokens_decoder", {})
        settings["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in added.items() if int(i) in new}
        (path / _SETTINGS).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)


def _vocabulary(kind: Mapping[str, Any], kept: Mapping[str, int]) -> dict[str, Any]:
    if kind["type"] == "Unigram":
        pieces = [piece for piece in kind["vocab"] if piece[0] in kept]
        unknown = None if kind["unk_id"] is None else kept[kind["vocab"][kind["unk_id"]][0]]
        return {**kind, "vocab": sorted(pieces, key=lambda piece: kept[piece[0]]), "unk_id": unknown}
    vocabulary = {name: kept[name] for name in kind["vocab"] if name in kept}
    if kind["type"] != "BPE":
        return {**kind, "vocab": vocabulary}
    merges = [pair for pair in _pairs(kind) if all(part in vocabulary for part in (*pair, "".join(pair)))]
    return {**kind, "vocab": vocabulary, "merges": merges}


def _renumbered(processor: Any, kept: Mapping[str, int]) -> Any:
    """A post-processor with the new numbers of its special tokens."""
    if not isinstance(processor, dict):
        return processor
    found = dict(processor)
    if "processors" in found:
        found["processors"] = [_renumbered(part, kept) for part in found["processors"]]
    if "special_tokens" in found:
        special = found["special_tokens"].items()
        found["special_tokens"] = {n: {**t, "ids": [kept[part] for part in t["tokens"]]} for n, t in special}
    for name in ("cls", "sep"):
        if name in found:
            found[name] = [found[name][0], kept[found[name][0]]]
    return found


def _cut_embeddings(model: PreTrainedModel, kept: list[int]) -> None:
    """Keep the rows of `kept`, in their order, of embeddings, head and its bias."""
    rows = torch.tensor(kept)
    embeddings: Any = model.get_input_embeddings()
    size = embeddings.num_embeddings
    with torch.no_grad():
        for tensor in _by_token(model, size):
            axis = tensor.dim() - 1 if tensor.shape[0] != size else 0
            tensor.narrow(axis, 0, len(kept)).copy_(tensor.index_select(axis, rows.to(tensor.device)))
    model.resize_token_embeddings(len(kept), mean_resizing=False)


def _by_token(model: PreTrainedModel, size: int) -> list[Tensor]:
    """Weights and biases with one row (or column) a token, each once: tied ones are the same memory."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    found: list[Tensor] = [p for module in modules if isinstance(module, nn.Module) for p in module.parameters()]
    found += [t for name, t in model.named_parameters() if name.endswith("predictions.bias")]
    found += [t for name, t in model.named_buffers() if name.endswith("final_logits_bias")]
    return list({tensor.data_ptr(): tensor for tensor in found if size in tensor.shape}.values())


def _renumber(model: PreTrainedModel, new: Mapping[int, int]) -> None:
    """Numbers of tokens in the configurations: pad_token_id, eos_token_id, decoder_start_token_id..."""
    for config in (model.config, getattr(model, "generation_config", None)):
        for name, value in vars(config or object).items():
            if name.endswith("token_id") and isinstance(value, int):
                setattr(config, name, new.get(value))
            elif name.endswith("token_id") and isinstance(value, list):
                setattr(config, name, [new[one] for one in value if one in new])
