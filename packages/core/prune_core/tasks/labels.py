"""Labels: the names of classes in the order of a head's logits, those of the data and those of the model as one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Value
from transformers import PreTrainedConfig

from prune_core.errors import DataError, listed
from prune_core.task import IGNORED
from prune_core.tasks.data import STRINGS, Table, Tables

_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)
_SLIPS = 0.1
"""Share of the rows up to which words among decimal numbers are taken for slips, one of ten: more may be meant."""


@dataclass(frozen=True)
class Labels:
    """The names of several classes in the order of the logits, and the id of each value in the data.

    `named` is False for plain integers, which any head of as many labels fits. `numbered` is True where the data gives
    ids itself, so that a head with the default names LABEL_0, LABEL_1... fits.
    """

    names: tuple[str, ...]
    ids: Mapping[Any, int]
    named: bool = True
    numbered: bool = False

    def encode(self, value: Any) -> int:
        """The id of a value in the data; KeyError for one that is not known."""
        return self.ids[value]

    def fits(self, config: PreTrainedConfig) -> bool:
        """Whether a head of this configuration has these labels in this order."""
        theirs = label_names(config)
        if len(theirs) != len(self.names):
            return False
        return not self.named or theirs == self.names or (self.numbered and theirs == _default_names(len(theirs)))

    def head(self) -> dict[str, Any]:
        """Options of `from_pretrained` for a new head."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
        }


def find_labels(tables: Tables, column: str, config: PreTrainedConfig, names: Sequence[str] = ()) -> Labels:
    """The labels in a column, single ones or lists, of the training table (of validation where there is none).

    `config` is the model's: where its labels are those of the data, its order is kept. `names` are those of the ids
    where the data do not say. In lists -100 is no label but the mark of what has none. DataError for a label that is in
    validation and not in training, or a single one, or, without training, one of which the model has only others.
    """
    table = tables.present()[0]
    ignored = (IGNORED,) if table.holds_lists(column) else ()
    feature, values = table.element(column), [value for value in values_of(table, column) if value not in ignored]
    if names and str(getattr(feature, "dtype", "")).startswith(("int", "uint")) and not isinstance(feature, ClassLabel):
        feature = ClassLabel(names=list(names))
    partial = tables.train is None
    labels = _aligned(_labels(feature, values, config, partial), config, partial)
    if partial:
        _refuse_strangers(tables, column, labels, label_names(config))
    if len(labels.names) < 2:
        found = repr(values[0]) if values else "none"
        raise DataError(f"{table.source}: {found} is the only label (column {column!r}); there must be two at least")
    known = f"is not among the training labels {listed(labels.names)}"
    refuse_labels(tables, column, lambda value: value in labels.ids or value in ignored, known)
    return labels


def decode_class_labels(tables: Tables, column: str) -> Tables:
    """The same, labels by name where a ClassLabel numbers them otherwise than training's, and of training's type.

    In csv files a column of 1 and 2 holds numbers, one of 1, 2 and x holds text: whole numbers become text where
    training's labels are. DataError where training's are numbers and another table's are text.
    """
    if tables.train is None:
        return tables
    train, ours = tables.train, tables.train.element(column)

    def decoded(table: Table) -> Table:
        theirs = table.element(column)
        if _is_number(ours) and _is_text(theirs):
            raise DataError(
                f"{table.source}: column {column!r} holds text, such as {_first_word(table, column)}; "
                f"that of {train.source} holds numbers"
            )
        if _is_text(ours) and _is_number(theirs) and theirs.dtype.startswith("int") and not table.holds_lists(column):
            return replace(table, rows=table.rows.cast_column(column, Value("string")))
        if not isinstance(theirs, ClassLabel) or (isinstance(ours, ClassLabel) and ours.names == theirs.names):
            return table
        names = [_decode(theirs, value) for value in table.rows[column]]
        return replace(table, rows=table.rows.remove_columns(column).add_column(column, names))

    return tables.map(decoded)


def values_of(table: Table, column: str) -> list[Any]:
    """The different labels in a column, single ones or in lists, in the order of their first rows."""
    values = table.arrow(column)
    values = pc.list_flatten(values) if table.holds_lists(column) else values
    return pc.unique(values).to_pylist()  # type: ignore[no-any-return]


def refuse_labels(tables: Tables, column: str, accepts: Callable[[Any], bool], complaint: str) -> None:
    """DataError naming the first label, with its row, that is not accepted."""
    for table in tables.present():
        for value in values_of(table, column):
            if not accepts(value):
                row = _row_of(table, column, value)
                raise DataError(f"{table.source}: label {value!r} in row {row} (column {column!r}) {complaint}")


def refuse_words_among_numbers(table: Table, column: str) -> None:
    """DataError for the first word, such as NA, in a column that is text for a few words among decimal numbers."""
    if not _is_text(table.element(column)):
        return
    counts = {one["values"]: one["counts"] for one in pc.value_counts(table.arrow(column)).to_pylist()}
    numbers = [value for value in counts if _NUMBER.fullmatch(value)]
    words = len(table.rows) - sum(counts[value] for value in numbers)
    if 0 < words <= _SLIPS * len(table.rows) and any(has_decimals(float(value)) for value in numbers):
        raise DataError(
            f"{table.source}: label {_first_word(table, column)} (column {column!r}) is no number, as nearly all are; "
            "fill or remove the row, or give --set task.regression=false where the numbers are names of classes"
        )


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names of a model's labels, in the order of its logits."""
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return tuple(names[index] for index in sorted(names))


def are_numbers(names: Sequence[str]) -> bool:
    """Whether these names of labels say nothing but their ids: LABEL_0, LABEL_1... or 0, 1..."""
    return tuple(names) in (_default_names(len(names)), tuple(map(str, range(len(names)))))


def has_decimals(value: Any) -> bool:
    """Whether a label is a number and no whole one."""
    return isinstance(value, float) and not value.is_integer()


def _labels(feature: Any, values: Sequence[Any], config: PreTrainedConfig, partial: bool) -> Labels:
    if isinstance(feature, ClassLabel):
        ids = {key: index for index, name in enumerate(feature.names) for key in (index, name)}
        return Labels(tuple(feature.names), ids, numbered=True)
    return _of_numbered_names(values, config) or _of_integers(values, config, partial) or _of_names(values)


def _of_numbered_names(values: Sequence[Any], config: PreTrainedConfig) -> Labels | None:
    """Labels of numbers that are names of the model's (stars from 1 to 5), of which the data may lack some; or None."""
    theirs = label_names(config)
    ids = {float(name): index for index, name in enumerate(theirs) if _NUMBER.fullmatch(name)}
    counted = all(number == index for number, index in ids.items())
    if counted or not values or not all(_is_plain_number(value) and value in ids for value in values):
        return None
    return Labels(theirs, ids)


def _of_integers(values: Sequence[Any], config: PreTrainedConfig, partial: bool) -> Labels | None:
    """Labels of integers that count from 0, or None. Gaps are allowed where the model's head has as many labels."""
    if not values or not all(_is_plain_number(v) and not has_decimals(v) and v >= 0 for v in values):
        return None
    count = int(max(values)) + 1
    theirs = len(label_names(config))
    count = max(count, theirs) if partial else count
    if len(values) < count != theirs:
        return None
    return Labels(_default_names(count), {i: i for i in range(count)}, named=False, numbered=True)


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_names(values: Sequence[Any]) -> Labels:
    ordered = sorted(values)
    return Labels(tuple(map(str, ordered)), {value: index for index, value in enumerate(ordered)})


def _aligned(labels: Labels, config: PreTrainedConfig, partial: bool) -> Labels:
    """The labels in the model's own order where its labels are theirs, letter case aside (or, if `partial`, more)."""
    theirs = label_names(config)
    place = {name.casefold(): index for index, name in enumerate(theirs)}
    ours = [name.casefold() for name in labels.names]
    distinct = len(place) == len(theirs) and len(set(ours)) == len(ours)
    same = set(ours) <= set(place) if partial else set(ours) == set(place)
    if not (labels.named and distinct and same):
        return labels
    ids = {value: place[ours[index]] for value, index in labels.ids.items()}
    return replace(labels, names=theirs, ids=ids)


def _refuse_strangers(tables: Tables, column: str, labels: Labels, theirs: Sequence[str]) -> None:
    """DataError for a label that is none of the model's where others are, so that its head is the one to judge."""
    known = {name.casefold() for name in theirs}
    strange = {value for value, index in labels.ids.items() if labels.names[index].casefold() not in known}
    if labels.named and not are_numbers(theirs) and len(strange) < len(labels.ids):
        complaint = f"is not among the labels of the model, {listed(theirs)}"
        refuse_labels(tables, column, lambda value: value not in strange, complaint)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in STRINGS


def _is_number(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "float"))


def _first_word(table: Table, column: str) -> str:
    """The first label that is no number (the first of all where every one is), and its row."""
    values = [value for value in values_of(table, column) if value is not None]
    found = next((value for value in values if not _NUMBER.fullmatch(value)), values[0] if values else None)
    return f"{found!r} in row {_row_of(table, column, found)}"


def _decode(feature: ClassLabel, value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(feature, one) for one in value]
    return feature.names[value] if value is not None and value >= 0 else None


def _row_of(table: Table, column: str, value: Any) -> int:
    """Number, from 1, of the first row with a label, which may be nan."""
    rows = ((row, found if isinstance(found, list) else [found]) for row, found in enumerate(table.rows[column], 1))
    return next(row for row, found in rows if any(one == value or (one != one and value != value) for one in found))


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{index}" for index in range(count))
