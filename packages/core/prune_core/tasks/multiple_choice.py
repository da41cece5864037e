"""The right one of several choices: how a story goes on, the answer to a question."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset
from transformers import DataCollatorForMultipleChoice

from prune_core.errors import DataError
from prune_core.task import choose_metric
from prune_core.tasks.config import MultipleChoiceConfig
from prune_core.tasks.data import STRINGS, Table, Tables, label_column
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction

_LISTS = ("choices", "endings", "options")
_TEXTS = {
    "context": ("context", "article", "passage", "premise", "sent1", "ctx"),
    "question": ("question", "query", "sent2", "start", "goal"),
}
_NUMBERED = re.compile(r"(choice|ending|option|answer|solution|sol)_?([0-9]|[a-e])", re.IGNORECASE)


class MultipleChoice(TabularTask):
    """Choosing among texts: as many in every row, in one column of lists or in a column each.

    The model reads the context, then the choice. With both a context and a question, the question starts the choice; a
    question alone serves as the context. Texts are cut at `max_length` tokens.
    """

    section: MultipleChoiceConfig
    roles: ClassVar[tuple[str, ...]] = ("context", "question", "choices", "label")
    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"
    head: ClassVar[str] = "ForMultipleChoice"

    def prepare(self, tables: Tables) -> Tables:
        table, columns = tables.present()[0], self.section.columns
        self.label = label_column(table, columns)
        self.choices = _choice_columns(table, columns)
        self.texts = _text_columns(table, columns)
        self.count = _count(table, self.choices)
        for table in tables.present():
            self._check(table)
        tables = tables.map(partial(_with_indices, label=self.label, count=self.count, first=self.section.first_label))
        self.metric = choose_metric(self.section.metric, ("accuracy",))
        self.processor = load_tokenizer(self.source)
        self.inputs = tuple(self.processor.model_input_names)
        return tables

    def features(self, table: Table) -> Dataset:
        limit = length_limit(self.section.max_length, self.processor, self.config)
        columns = {"choices": self.choices, "label": self.label, **self.texts}
        return tokenized(table, _tokenize, tokenizer=self.processor, max_length=limit, columns=columns)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The model's inputs, [rows, choices, tokens] each, and labels [rows]."""
        return dict(DataCollatorForMultipleChoice(self.processor)([dict(feature) for feature in features]))

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """accuracy, from logits [rows, choices]."""
        guesses = np.asarray(prediction.predictions).argmax(-1)
        return {"accuracy": float((guesses == np.asarray(prediction.label_ids)).mean())}

    def _check(self, table: Table) -> None:
        """DataError where a text or a label is missing, or a row has another number of choices than the first."""
        for role, column in (*self.texts.items(), *(("choices", column) for column in self.choices)):
            table.require(role, column)
            if str(getattr(table.element(column), "dtype", "")) not in STRINGS:
                raise DataError(
                    f"{table.source}: column {column!r} holds {table.features[column]}; {role} must be strings"
                )
            table.refuse_nulls(role, column)
        table.refuse_nulls("label", table.require("label", self.label))
        if len(self.choices) == 1:
            counts = pc.list_value_length(table.arrow(self.choices[0]))
            row = pc.index(pc.not_equal(counts, self.count), True).as_py()
            if row >= 0:
                raise DataError(
                    f"{table.source}: row {row + 1} has {counts[row]} choices (column {self.choices[0]!r}) where the "
                    f"first has {self.count}; every row must have as many: remove the others"
                )


def _tokenize(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    columns = options["columns"]
    choices = [batch[column] for column in columns["choices"]]
    rows = choices[0] if len(choices) == 1 else list(zip(*choices, strict=True))
    firsts, seconds = [], []
    for index, texts in enumerate(rows):
        context, question = (
            batch[columns[role]][index] if role in columns else None for role in ("context", "question")
        )
        for text in texts:
            firsts.append(question if context is None else context)
            seconds.append(text if context is None or question is None else f"{question} {text}")
    flat = options["tokenizer"](firsts, seconds, truncation=True, max_length=options["max_length"])
    count = len(rows[0])
    nested = {name: [values[i : i + count] for i in range(0, len(values), count)] for name, values in flat.items()}
    return {**nested, "labels": batch[columns["label"]]}


def _choice_columns(table: Table, columns: dict[str, str]) -> list[str]:
    """The column of lists, or the columns of single texts, that hold the choices."""
    if "choices" in columns:
        return [table.require("choices", name.strip()) for name in columns["choices"].split(",")]
    lists = [name for name in _LISTS if name in table.columns and table.holds_lists(name)]
    if lists:
        return lists[:1]
    numbered = [(match[1], match[2], name) for name in table.columns if (match := _NUMBERED.fullmatch(name))]
    if len(numbered) < 2 or len({stem for stem, *_ in numbered}) > 1:
        raise DataError(
            f"{table.source}: which columns hold the choices is unclear; found {', '.join(table.columns)}; name one "
            "column of lists with --column choices=NAME, or one a choice with --column choices=NAME,NAME"
        )
    return [name for *_, name in sorted(numbered)]


def _count(table: Table, choices: list[str]) -> int:
    if len(choices) > 1:
        return len(choices)
    if not table.holds_lists(choices[0]):
        raise DataError(
            f"{table.source}: column {choices[0]!r} holds {table.features[choices[0]]}; choices must be one column of "
            "lists, or one column a choice, as in --column choices=ending0,ending1"
        )
    found = len(table.rows[0][choices[0]] or ())
    if found < 2:
        raise DataError(
            f"{table.source}: row 1 has {found} choices (column {choices[0]!r}); there must be two at least"
        )
    return found


def _text_columns(table: Table, columns: dict[str, str]) -> dict[str, str]:
    """Role -> column of what stands before the choices."""
    named = {role: columns[role] for role in _TEXTS if role in columns}
    usual = {role: name for role, names in _TEXTS.items() for name in reversed(names) if name in table.columns}
    if not named and not usual:
        raise DataError(
            f"{table.source}: which column the choices follow is unclear; found {', '.join(table.columns)}; "
            "name it with --column context=NAME, or --column question=NAME, or both"
        )
    return named or usual


def _with_indices(table: Table, label: str, count: int, first: int) -> Table:
    """The same, the label the index of a choice from 0; DataError, naming the row, where a label is none of them."""
    first = 0 if isinstance(table.features[label], ClassLabel) else first
    indices = [_index(value, first) for value in table.rows[label]]
    for row, index in enumerate(indices):
        if index is None or not 0 <= index < count:
            raise DataError(
                f"{table.source}: label {table.rows[label][row]!r} in row {row + 1} (column {label!r}) is none of the "
                f"{count} choices; labels are numbers from {first} (task.first_label), or letters from A"
            )
    return replace(table, rows=table.rows.remove_columns(label).add_column(label, indices))


def _index(value: Any, first: int) -> int | None:
    """The index, from 0, that a label stands for: a number, also as text, or a letter."""
    text = str(value).strip().upper()
    if re.fullmatch(r"-?\d+(\.0)?", text):
        return int(float(text)) - first
    return ord(text) - ord("A") if re.fullmatch("[A-Z]", text) else None
