"""One label (or one number) for a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset
from transformers import DataCollatorWithPadding

from prune_core.errors import DataError
from prune_core.tasks.classification import ClassificationTask
from prune_core.tasks.config import TextClassificationConfig
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.texts import require_text, text_columns
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized, with_padding

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class TextClassification(ClassificationTask):
    """Classification of, or regression on, single texts or pairs; texts are cut at `max_length` tokens.

    The text columns are all string columns but the label, unless `columns` names text (and text_pair).
    """

    section: TextClassificationConfig
    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "label")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head: ClassVar[str] = "ForSequenceClassification"

    def find_inputs(self, tables: Tables) -> Tables:
        self.processor = with_padding(load_tokenizer(self.source), self.source)
        self.inputs = tuple(self.processor.model_input_names)
        self.texts = _text_columns(tables.present()[0], self.label, self.section.columns)
        for table in tables.present():
            for role, column in zip(("text", "text_pair"), self.texts, strict=False):
                require_text(table, role, column)
        return tables

    def features(self, table: Table) -> Dataset:
        options = {
            "tokenizer": self.processor,
            "texts": self.texts,
            "label": self.label,
            "encode": self.target.encode,
            "max_length": length_limit(self.section.max_length, self.processor, self.config),
        }
        return tokenized(table, _tokenize, **options)

    def load_model(self, path: str) -> PreTrainedModel:
        model = super().load_model(path)
        config = model.config.get_text_config()
        # a decoder classifies a text by its last token that is none of padding
        if getattr(config, "pad_token_id", 0) is None:
            config.pad_token_id = self.processor.pad_token_id
        return model

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(DataCollatorWithPadding(self.processor)(features))


def _tokenize(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    texts = [batch[column] for column in options["texts"]]
    encoding = options["tokenizer"](*texts, truncation=True, max_length=options["max_length"])
    return {**encoding, "labels": [options["encode"](value) for value in batch[options["label"]]]}


def _text_columns(table: Table, label: str, columns: dict[str, str]) -> list[str]:
    if "text" in columns:
        return [columns[role] for role in ("text", "text_pair") if role in columns]
    if "text_pair" in columns:
        raise DataError("task.columns: text_pair is named and text is not; add --column text=NAME")
    found = [name for name in text_columns(table) if name != label]
    if not found:
        raise DataError(f"{table.source}: no text column; found {', '.join(table.columns)}; label {label!r}")
    if len(found) > 2:
        raise DataError(
            f"{table.source}: {len(found)} columns could be the text: {', '.join(found)}; "
            "name one with --column text=NAME, or two with --column text_pair=NAME as well"
        )
    return found
