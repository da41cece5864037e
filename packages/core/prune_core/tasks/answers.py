"""Questions with their contexts and answers, in any of the forms that data sets hold them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prune_core.errors import DataError
from prune_core.tasks.data import Table
from prune_core.tasks.texts import require_text

ROLES = ("id", "context", "question", "answers", "answer_start")
_TEXT, _START = "text", "answer_start"


@dataclass(frozen=True)
class Answer:
    """An answer, and the character of the context where it begins (None where the data do not say)."""

    text: str
    start: int | None


@dataclass(frozen=True)
class Columns:
    """Where a table holds what. `start` is None where the answers hold their starts themselves."""

    context: str
    question: str
    answers: str
    start: str | None = None
    id: str | None = None

    @classmethod
    def find(cls, table: Table, named: dict[str, str]) -> Columns:
        """By role, each called as its role unless `named`; DataError for one that is not there or holds no text."""
        required = {role: table.require(role, named.get(role, role)) for role in ("context", "question", "answers")}
        for role in ("context", "question"):
            require_text(table, role, required[role])
        optional = {role: named.get(role, role) for role in ("id", _START)}
        for role in optional.keys() & named.keys():
            table.require(role, optional[role])
        there = {role: column if column in table.columns else None for role, column in optional.items()}
        return cls(**required, start=there[_START], id=there["id"])

    def only(self, table: Table) -> Table:
        """The table without any other column."""
        names = [name for name in (self.id, self.context, self.question, self.answers, self.start) if name]
        return replace(table, rows=table.rows.select_columns(list(dict.fromkeys(names))))

    def read(self, batch: Mapping[str, list[Any]]) -> Iterator[tuple[str, list[Answer]]]:
        """Context and answers, none where it is unanswerable, of each row; ValueError where it is neither."""
        starts = batch[self.start] if self.start else [None] * len(batch[self.context])
        for context, value, start in zip(batch[self.context], batch[self.answers], starts, strict=True):
            yield context, _answers(value, start)


def golds_of(table: Table, columns: Columns) -> Iterator[tuple[str, list[Answer]]]:
    """Context and answers of each row; DataError naming the first row whose answers cannot be read."""
    number = 0
    try:
        for batch in table.rows.iter(1000):
            for pair in columns.read(batch):
                yield pair
                number += 1
    except ValueError as error:
        raise _wrong(table, columns, number + 1, str(error)) from error


def check_answers(table: Table, columns: Columns, *, train: bool, unanswerable: bool | None) -> bool:
    """Whether some question of the table has no answer.

    DataError naming the first row that has none where `unanswerable` is False, or, of rows to train on, whose answer is
    not where it is said to be; and for a table without any answer.
    """
    without, answered = False, False
    for number, (context, golds) in enumerate(golds_of(table, columns), 1):
        answered, without = answered or bool(golds), without or not golds
        fault = _fault(context, golds, train=train, unanswerable=unanswerable)
        if fault:
            raise _wrong(table, columns, number, fault)
    if not answered:
        raise DataError(f"{table.source}: no row has an answer (column {columns.answers!r}); it cannot be judged")
    return without


def _fault(context: str, golds: Sequence[Answer], *, train: bool, unanswerable: bool | None) -> str:
    if not golds:
        return "it has no answer; give one, or --set task.unanswerable=true" if unanswerable is False else ""
    text, start = golds[0].text, golds[0].start
    if not train:
        return ""  # scores need no position
    if start is None:
        return f"the answer {text!r} has no start; name its column with --column answer_start=NAME"
    found = context[start : start + len(text)] if start >= 0 else ""
    return "" if found == text else f"the answer {text!r} is not at character {start}, there is {found!r}"


def _wrong(table: Table, columns: Columns, number: int, fault: str) -> DataError:
    name = f" (id {table.rows[number - 1][columns.id]})" if columns.id else ""
    return DataError(f"{table.source}: row {number}{name}, column {columns.answers!r}: {fault}")


def _answers(value: Any, start: Any) -> list[Answer]:
    """Of one text, of texts, of {text, answer_start} with one or several of each, or of a list of those."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [Answer(value, _whole(start[0] if isinstance(start, list) and start else start))]
    if isinstance(value, dict) and _TEXT in value:
        return _answers(value[_TEXT], value.get(_START, start))
    if isinstance(value, list):
        starts = start if isinstance(start, list) and len(start) else [start] * len(value)
        if len(starts) != len(value):
            raise ValueError(f"{len(value)} answers have {len(starts)} starts")
        return [answer for one, where in zip(value, starts, strict=True) for answer in _answers(one, where)]
    raise ValueError(f"answers are a text, a list of texts or {{text, answer_start}}, found {value!r}")


def _whole(start: Any) -> int | None:
    if start is None or (isinstance(start, float) and start != start):
        return None
    if not isinstance(start, int | float) or isinstance(start, bool) or int(start) != start:
        raise ValueError(f"answer_start is a number of characters, found {start!r}")
    return int(start)
