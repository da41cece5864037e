"""One tag for each word of a text: names (NER), parts of speech, chunks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from transformers import DataCollatorForTokenClassification

from prune_core.errors import DataError
from prune_core.task import IGNORED, choose_metric
from prune_core.tasks.config import TokenClassificationConfig
from prune_core.tasks.data import STRINGS, Table, Tables, role_column
from prune_core.tasks.labels import decode_class_labels, find_labels, label_names
from prune_core.tasks.spans import mark_spans, span_figures
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.tokens import length_limit, load_word_tokenizer, tokenized, with_padding

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedConfig

logger = logging.getLogger(__name__)

_COLUMNS = {"tokens": ("tokens", "words"), "tags": ("ner_tags", "tags", "labels", "pos_tags")}


class TokenClassification(TabularTask):
    """Tagging of words: a column of lists of words, one of lists of as many tags (names or numbers).

    The first token of a word carries its tag; texts are cut at `max_length` tokens. Tags that mark spans, such as
    B-PER and I-PER, are judged by the F1 of whole spans, others by accuracy.
    """

    section: TokenClassificationConfig
    roles: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    head: ClassVar[str] = "ForTokenClassification"

    def prepare(self, tables: Tables) -> Tables:
        table, columns = tables.present()[0], self.section.columns
        self.words, self.tags = (role_column(table, role, columns, _COLUMNS[role]) for role in self.roles)
        for table in tables.present():
            _require_lists(table, self.words, self.tags)
        tables = decode_class_labels(tables, self.tags).map(self._with_words)
        self.labels = find_labels(tables, self.tags, self.config, self.section.tag_names)
        keeps_names = not self.labels.named and self.has_trained_head(self.source)
        self.names = label_names(self.config) if keeps_names else self.labels.names
        figures = ("f1", "precision", "recall", "accuracy") if mark_spans(self.names) else ("accuracy",)
        self.metric = choose_metric(self.section.metric, figures)
        self.processor = with_padding(load_word_tokenizer(self.source), self.source)
        self.inputs = tuple(self.processor.model_input_names)
        return tables

    def features(self, table: Table) -> Dataset:
        limit = length_limit(self.section.max_length, self.processor, self.config)
        columns = {"words": self.words, "tags": self.tags}
        options = {"tokenizer": self.processor, "encode": self.labels.encode, "max_length": limit, **columns}
        features = tokenized(table, _tokenize, **options)
        words, rows = len(pc.list_flatten(table.arrow(self.words))), _tagged(features)
        tagged, full = len(rows), pc.unique(rows)
        if not tagged:
            raise DataError(f"{table.source}: no word has a token among the first {limit} of its text")
        if tagged < words:
            logger.warning(
                "%s: %d of %d words lie behind the first %d tokens of their text, or have no token or no tag: they do "
                "not count",
                *(table.source, words - tagged, words, limit),
            )
        return features if len(full) == len(features) else features.select(full.to_pylist())

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(DataCollatorForTokenClassification(self.processor, label_pad_token_id=IGNORED)(features))

    def new_head(self) -> dict[str, Any]:
        return self.labels.head()

    def fits(self, config: PreTrainedConfig) -> bool:
        return self.labels.fits(config)

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Tag ids and labels, [texts, tokens] each: logits of a whole validation set would fill the memory."""
        return model(**self.model_inputs(batch)).logits.argmax(-1), batch["labels"]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """accuracy, of words; where tags mark spans, f1, precision and recall of these as well."""
        truths, guesses = np.asarray(prediction.label_ids), np.asarray(prediction.predictions)
        counted = truths != IGNORED
        figures = {"accuracy": float((truths == guesses)[counted].mean())}
        if not mark_spans(self.names):
            return figures
        rows = [(self._named(t[c]), self._named(g[c])) for t, g, c in zip(truths, guesses, counted, strict=True)]
        return {**span_figures(*zip(*rows, strict=True)), **figures}

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        labels: Tensor = batch["labels"]
        return labels != IGNORED

    def _named(self, ids: Sequence[int]) -> list[str]:
        return [self.names[index] for index in ids]

    def _with_words(self, table: Table) -> Table:
        """The rows that hold words: a batch of empty ones would have no loss."""
        full = [row for row, count in enumerate(pc.list_value_length(table.arrow(self.words)).to_pylist()) if count]
        if not full:
            raise DataError(f"{table.source}: no row holds a word (column {self.words!r})")
        if len(full) == len(table.rows):
            return table
        logger.warning("%s: %d rows without words are left out", table.source, len(table.rows) - len(full))
        return replace(table, rows=table.rows.select(full))


def _tokenize(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    encoding = options["tokenizer"](
        batch[options["words"]], is_split_into_words=True, truncation=True, max_length=options["max_length"]
    )
    labels = []
    for row, tags in enumerate(batch[options["tags"]]):
        words = encoding.word_ids(row)
        firsts = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
        tagged = [first and tags[word] != IGNORED for word, first in zip(words, firsts, strict=True)]
        labels.append([options["encode"](tags[w]) if has else IGNORED for w, has in zip(words, tagged, strict=True)])
    return {**encoding, "labels": labels}


def _tagged(features: Dataset) -> Any:
    """The row of each token that carries a tag; a batch of rows without any would have no loss."""
    labels = features.with_format("arrow")[:]["labels"].combine_chunks()
    return pc.filter(pc.list_parent_indices(labels), pc.not_equal(pc.list_flatten(labels), IGNORED))


def _require_lists(table: Table, words: str, tags: str) -> None:
    """DataError where a column is missing or no list, has a hole, or where a row has not one tag for each word."""
    for role, column, wanted in (("tokens", words, "strings"), ("tags", tags, "names or whole numbers")):
        table.require(role, column)
        table.refuse_nulls(role, column)
        if not (table.holds_lists(column) and _is_of(role, table.element(column))):
            raise DataError(
                f"{table.source}: column {column!r} holds {table.features[column]}; {role} must be lists of {wanted}, "
                "as json, jsonl and parquet files hold them"
            )
    counts = pc.list_value_length(table.arrow(words)), pc.list_value_length(table.arrow(tags))
    row = pc.index(pc.not_equal(*counts), True).as_py()
    if row >= 0:
        found = f"{counts[0][row]} tokens and {counts[1][row]} tags"
        raise DataError(
            f"{table.source}: row {row + 1} has {found} (columns {words!r}, {tags!r}); every token needs one"
        )


def _is_of(role: str, element: Any) -> bool:
    dtype = str(getattr(element, "dtype", ""))
    return dtype in STRINGS or (role == "tags" and dtype.startswith(("int", "uint")))
