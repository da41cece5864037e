"""Language modelling: the next token of a text, or tokens that were hidden; judged by perplexity."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prune_core.errors import DataError, ModelError
from prune_core.task import IGNORED, choose_metric
from prune_core.tasks.config import LanguageModelingConfig, MaskedLanguageModelingConfig
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.texts import only_text, require_head_class, require_text
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction

_MASKED, _REPLACED = 0.8, 0.1
"""Shares of the tokens to predict that are hidden by the mask, and by a random token; the rest stays as it is."""


class LanguageModeling(TabularTask):
    """Perplexity of texts: of blocks that they are joined and cut to, or of each by itself."""

    section: LanguageModelingConfig
    roles: ClassVar[tuple[str, ...]] = ("text",)
    greater_is_better: ClassVar[bool] = False
    inputs = ("input_ids", "attention_mask")
    figures: ClassVar[tuple[str, ...]] = ("perplexity", "nll")

    def prepare(self, tables: Tables) -> Tables:
        self.metric = choose_metric(self.section.metric, self.figures)
        self.require_model()
        self.processor = load_tokenizer(self.source)
        self.padding = self.processor.pad_token_id or 0
        column = only_text(tables.present()[0], "text", self.section.columns)
        return tables.map(lambda table: _texts_alone(table, column))

    @abstractmethod
    def require_model(self) -> None:
        """ModelError where the model cannot do the task."""

    @abstractmethod
    def frame(self) -> tuple[str, list[int], list[int]]:
        """What stands behind each text, and the tokens before and behind each example."""

    def features(self, table: Table) -> Dataset:
        separator, before, behind = self.frame()
        options = {
            "tokenizer": self.processor,
            "separator": separator if self.section.separator is None else self.section.separator,
            "frame": (before, behind),
            "room": length_limit(self.section.max_length, self.processor, self.config) - len(before) - len(behind),
            "blocks": self.section.blocks,
        }
        found = tokenized(table, _examples, **options)
        if not len(found):
            raise DataError(f"{table.source}: its texts are too short: not one token follows another")
        return found

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [torch.tensor(feature["input_ids"]) for feature in features]
        lengths = torch.tensor([len(text) for text in texts])
        ids = pad_sequence(texts, batch_first=True, padding_value=self.padding)
        attended = torch.arange(ids.shape[1]) < lengths[:, None]
        labels = ids.masked_fill(~attended, IGNORED)
        return {"input_ids": ids, "attention_mask": attended.long(), "labels": labels}

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, positions, tokens] and the labels [batch, positions] that they predict."""
        return logits, labels

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of each example the sum of the negative log-likelihoods of its tokens, and their number."""
        logits, labels = self.aligned(model(**self.model_inputs(batch)).logits, batch["labels"])
        pairs = zip(logits, labels, strict=True)  # one by one: a copy of all logits may be gigabytes
        sums = [F.cross_entropy(one.float(), wanted, reduction="sum", ignore_index=IGNORED) for one, wanted in pairs]
        return torch.stack(sums), (labels != IGNORED).sum(dim=1)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """nll: mean negative log-likelihood of a token, in nats; perplexity: its exponential."""
        nll = float(np.sum(prediction.predictions, dtype=np.float64) / np.sum(prediction.label_ids))
        return {"perplexity": float(np.exp(nll)), "nll": nll}


class CausalLanguageModeling(LanguageModeling):
    """The next token. Each block begins as the tokenizer begins a text (OPT, Llama: with a token for that)."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def require_model(self) -> None:
        require_head_class(self.auto_class, self.config, self.source, "that predicts the next token")
        if self.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(
            self.config, "is_decoder", False
        ):
            raise ModelError(
                f"{self.source} is a {self.config.model_type} whose tokens see those that follow, so that the next one "
                "is no secret; use the task masked-lm, or a decoder"
            )

    def frame(self) -> tuple[str, list[int], list[int]]:
        return _end_of_text(self.processor), _affixes(self.processor)[0], []

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return logits[:, :-1], labels[:, 1:]

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        """Positions whose next token is to be predicted."""
        return F.pad(batch["labels"][:, 1:] != IGNORED, (0, 1), value=False)


class MaskedLanguageModeling(LanguageModeling):
    """Hidden tokens (BERT, arXiv:1810.04805): 80 % of those to predict are masked, 10 % replaced, 10 % left.

    In training they depend on `mask_seed` and the batch, so they differ between epochs and not after a resume. In
    validation they depend on `mask_seed` and the row.
    """

    section: MaskedLanguageModelingConfig
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    def require_model(self) -> None:
        require_head_class(self.auto_class, self.config, self.source, "that predicts hidden tokens")

    def prepare(self, tables: Tables) -> Tables:
        tables = super().prepare(tables)
        if self.processor.mask_token_id is None:
            raise ModelError(f"{self.source}: its tokenizer has no mask token; use the task causal-lm for a decoder")
        return tables

    def frame(self) -> tuple[str, list[int], list[int]]:
        return _end_of_text(self.processor) if self.section.blocks else "", *_affixes(self.processor)

    def judged(self, name: str, features: Dataset) -> Dataset:
        return features.add_column("row", list(range(len(features))))

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = super().collate(features)
        ids = batch["input_ids"].numpy()
        labels = np.full_like(ids, IGNORED)
        if "row" in features[0]:
            for index, feature in enumerate(features):
                length = len(feature["input_ids"])
                self._hide(ids[index, :length], labels[index, :length], feature["row"])
        else:
            self._hide(ids, labels, zlib.crc32(ids.tobytes()))
        return {**batch, "labels": torch.from_numpy(labels)}

    def _hide(self, ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], number: int) -> None:
        """Hide tokens, in place, and set their labels; `number` decides which, one at least."""
        random = np.random.default_rng([self.section.mask_seed, number])
        draw = np.where(np.isin(ids, self.processor.all_special_ids), 1.0, random.random(ids.shape))
        chosen = draw < max(self.section.masked_share, np.nextafter(draw.min(), 1.0))
        fate, others = random.random(ids.shape), random.integers(len(self.processor), size=ids.shape)
        labels[chosen] = ids[chosen]
        ids[chosen & (fate < _MASKED)] = self.processor.mask_token_id
        replaced = chosen & (fate >= 1 - _REPLACED)
        ids[replaced] = others[replaced]

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        counted: Tensor = batch["labels"] != IGNORED
        return counted


def _examples(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Examples of at most `room` tokens in their frame; one of a single token predicts nothing and is left out."""
    texts = [text + options["separator"] for text in batch["text"]]
    tokens = options["tokenizer"](texts, add_special_tokens=False, verbose=False)["input_ids"]
    room, (before, behind) = options["room"], options["frame"]
    if options["blocks"]:
        joined = list(chain.from_iterable(tokens))
        tokens = [joined[start : start + room] for start in range(0, len(joined), room)]
    framed = [[*before, *ids[:room], *behind] for ids in tokens if ids]
    return {"input_ids": [ids for ids in framed if len(ids) > 1]}


def _affixes(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and behind a text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next((index for index in range(len(whole)) if whole[index : index + len(bare)] == bare), None)
    if start is None:
        raise ModelError(
            f"{type(tokenizer).__name__} writes 'a' as {bare} alone and as {whole} in a text: which tokens stand "
            "before and behind a text cannot be told"
        )
    return whole[:start], whole[start + len(bare) :]


def _end_of_text(tokenizer: Any) -> str:
    return tokenizer.eos_token or tokenizer.sep_token or ""


def _texts_alone(table: Table, column: str) -> Table:
    rows = table.rows.select_columns([require_text(table, "text", column)])
    return replace(table, rows=rows.rename_column(column, "text") if column != "text" else rows)
