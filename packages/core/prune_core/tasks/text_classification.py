"""One label (or one number) for a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset, Value
from transformers import AutoTokenizer, DataCollatorWithPadding

from prune_core.errors import DataError, ModelError
from prune_core.pretrained import brief, usable_length
from prune_core.tasks.classification import ClassificationTask
from prune_core.tasks.data import STRINGS, Table, Tables

if TYPE_CHECKING:
    from torch import Tensor


class TextClassification(ClassificationTask):
    """Classification of, or regression on, single texts or pairs; texts are cut at `max_length` tokens.

    The text columns are all string columns but the label, unless `columns` names text (and text_pair).
    """

    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "label")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head: ClassVar[str] = "ForSequenceClassification"

    def prepare(self, tables: Tables) -> Tables:
        self.processor = _tokenizer(self.source)
        self.inputs = tuple(self.processor.model_input_names)
        self.texts = _text_columns(tables.present()[0], self.label, self.section.columns)
        for table in tables.present():
            for role, column in zip(("text", "text_pair"), self.texts, strict=False):
                _require_text(table, role, column)
        return tables

    def features(self, table: Table) -> Dataset:
        limits = [self.section.max_length, self.processor.model_max_length, usable_length(self.config)]
        options = {
            "tokenizer": self.processor,
            "texts": self.texts,
            "label": self.label,
            "encode": self.target.encode,
            "max_length": min(limit for limit in limits if limit is not None),
        }
        return table.rows.map(
            _tokenize, batched=True, remove_columns=table.columns, fn_kwargs=options, desc="tokenizing"
        )

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(DataCollatorWithPadding(self.processor)(features))


def _tokenize(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    texts = [batch[column] for column in options["texts"]]
    encoding = options["tokenizer"](*texts, truncation=True, max_length=options["max_length"])
    return {**encoding, "labels": [options["encode"](value) for value in batch[options["label"]]]}


def _tokenizer(model: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(model)
    except Exception as error:  # a missing vocabulary shows up as almost any error
        raise ModelError(f"{model} holds no tokenizer that can be read: {brief(error)}") from error


def _text_columns(table: Table, label: str, columns: dict[str, str]) -> list[str]:
    if "text" in columns:
        return [columns[role] for role in ("text", "text_pair") if role in columns]
    if "text_pair" in columns:
        raise DataError("task.columns: text_pair is named and text is not; add --column text=NAME")
    found = [name for name in table.columns if name != label and _is_text(table, name)]
    if not found:
        raise DataError(f"{table.source}: no text column; found {', '.join(table.columns)}; label {label!r}")
    if len(found) > 2:
        raise DataError(
            f"{table.source}: {len(found)} columns could be the text: {', '.join(found)}; "
            "name one with --column text=NAME, or two with --column text_pair=NAME as well"
        )
    return found


def _require_text(table: Table, role: str, column: str) -> None:
    table.require(role, column)
    if not _is_text(table, column):
        raise DataError(f"{table.source}: column {column!r} holds {table.features[column]}; {role} must be strings")
    table.refuse_nulls(role, column)


def _is_text(table: Table, column: str) -> bool:
    feature = table.features[column]
    return isinstance(feature, Value) and feature.dtype in STRINGS
