"""Targets: what a head predicts, classes or a number. How labels are encoded, which heads fit, and the metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import ClassLabel, Value
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction, PreTrainedConfig

from prune_core.errors import DataError
from prune_core.tasks.data import Table, Tables


class Target(ABC):
    """What the head of a model predicts."""

    figures: ClassVar[tuple[str, ...]]
    """Names of what `metrics` gives; the first is what a model is judged by where nothing else is asked for."""
    imitation: ClassVar[Literal["distribution", "value"]]
    """How the logits of a teacher are imitated."""

    @abstractmethod
    def encode(self, value: Any) -> int | float:
        """The label of a row as the model is to see it; KeyError for one that is not known."""

    @abstractmethod
    def fits(self, config: PreTrainedConfig) -> bool:
        """Whether a head of this configuration predicts exactly this."""

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """Options of `from_pretrained` for a new head."""

    @abstractmethod
    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of a prediction: logits [examples, labels] and label ids [examples]."""


@dataclass(frozen=True)
class Classes(Target):
    """One of several classes: their names in the order of the logits, and the id of each value in the data.

    `named` is False for plain integers, which any head of as many labels fits. `numbered` is True where the data gives
    ids itself, so that a head with the default names LABEL_0, LABEL_1... fits.
    """

    names: tuple[str, ...]
    ids: Mapping[Any, int]
    named: bool = True
    numbered: bool = False

    figures: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    imitation: ClassVar[Literal["distribution", "value"]] = "distribution"

    def encode(self, value: Any) -> int:
        return self.ids[value]

    def fits(self, config: PreTrainedConfig) -> bool:
        theirs = _names(config)
        if len(theirs) != len(self.names):
            return False
        return not self.named or theirs == self.names or (self.numbered and theirs == _default_names(len(theirs)))

    def head(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
            "problem_type": "single_label_classification",
        }

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """accuracy; f1: of class 1 where there are two classes, the mean over classes where there are more; matthews:
        Matthews correlation.
        """
        truth, guess = prediction.label_ids, _logits(prediction).argmax(-1)
        average = "binary" if len(self.names) == 2 else "macro"
        return {
            "accuracy": float(accuracy_score(truth, guess)),
            "f1": float(f1_score(truth, guess, average=average, zero_division=0)),
            "matthews": float(matthews_corrcoef(truth, guess)),
        }


@dataclass(frozen=True)
class Number(Target):
    """A real number."""

    figures: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    imitation: ClassVar[Literal["distribution", "value"]] = "value"

    def encode(self, value: Any) -> float:
        return float(value)

    def fits(self, config: PreTrainedConfig) -> bool:
        return config.num_labels == 1 and config.problem_type in (None, "regression")

    def head(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """pearson and spearman; 0 where the predictions, or the labels, are all the same."""
        truth, guess = np.ravel(prediction.label_ids), np.ravel(_logits(prediction))
        if np.ptp(guess) == 0 or np.ptp(truth) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(stats.pearsonr(truth, guess).statistic),
            "spearman": float(stats.spearmanr(truth, guess).statistic),
        }


def find_target(tables: Tables, column: str, regression: bool | None, config: PreTrainedConfig) -> Target:
    """The target that the labels of the training table call for (of validation where there is no training).

    `config` is the model's: where its labels are those of the data, its order is kept. DataError for a label that is
    missing, is neither text nor number, or is in validation and not in training.
    """
    for table in tables.present():
        if not isinstance(table.features[column], ClassLabel | Value):
            raise DataError(f"{table.source}: column {column!r} holds lists; a label is one string or one number")
        table.refuse_nulls("label", column)
    values = tables.present()[0].rows.unique(column)
    if regression or (regression is None and any(_has_decimals(value) for value in values)):
        _refuse_labels(tables, column, _is_finite, "is no number; regression needs numbers")
        return Number()
    classes = _classes(tables, column, values, config)
    known = f"is not among the training labels {', '.join(classes.names)}"
    _refuse_labels(tables, column, lambda value: value in classes.ids, known)
    return classes


def decode_class_labels(tables: Tables, column: str) -> Tables:
    """The same, labels by name where a ClassLabel numbers them otherwise than training's."""
    if tables.train is None:
        return tables
    ours = tables.train.features[column]

    def decoded(table: Table) -> Table:
        theirs = table.features[column]
        if not isinstance(theirs, ClassLabel) or (isinstance(ours, ClassLabel) and ours.names == theirs.names):
            return table
        names = [theirs.names[i] if i is not None and i >= 0 else None for i in table.rows[column]]
        return replace(table, rows=table.rows.remove_columns(column).add_column(column, names))

    return tables.map(decoded)


def _classes(tables: Tables, column: str, values: Sequence[Any], config: PreTrainedConfig) -> Classes:
    table, partial = tables.present()[0], tables.train is None
    feature = table.features[column]
    if isinstance(feature, ClassLabel):
        ids = {key: index for index, name in enumerate(feature.names) for key in (index, name)}
        classes = Classes(tuple(feature.names), ids, numbered=True)
    else:
        classes = _of_integers(values, config, partial) or _of_names(values)
    aligned = _aligned(classes, config, partial)
    if len(aligned.names) < 2:
        raise DataError(
            f"{table.source}: {values[0]!r} is the only label (column {column!r}); there must be two at least"
        )
    return aligned


def _of_integers(values: Sequence[Any], config: PreTrainedConfig, partial: bool) -> Classes | None:
    """Classes of integers that count from 0, or None. Gaps are allowed where the model's head has as many labels."""
    if not all(
        isinstance(v, int | float) and not isinstance(v, bool) and not _has_decimals(v) and v >= 0 for v in values
    ):
        return None
    count = int(max(values)) + 1
    theirs = len(_names(config))
    count = max(count, theirs) if partial else count
    if len(values) < count != theirs:
        return None
    return Classes(_default_names(count), {i: i for i in range(count)}, named=False, numbered=True)


def _of_names(values: Sequence[Any]) -> Classes:
    ordered = sorted(values)
    return Classes(tuple(map(str, ordered)), {value: index for index, value in enumerate(ordered)})


def _aligned(classes: Classes, config: PreTrainedConfig, partial: bool) -> Classes:
    """The classes in the model's own order where its labels are theirs, letter case aside (or, if `partial`, more)."""
    theirs = _names(config)
    place = {name.casefold(): index for index, name in enumerate(theirs)}
    ours = [name.casefold() for name in classes.names]
    distinct = len(place) == len(theirs) and len(set(ours)) == len(ours)
    same = set(ours) <= set(place) if partial else set(ours) == set(place)
    if not (classes.named and distinct and same):
        return classes
    ids = {value: place[ours[index]] for value, index in classes.ids.items()}
    return replace(classes, names=theirs, ids=ids)


def _refuse_labels(tables: Tables, column: str, accepts: Any, complaint: str) -> None:
    for table in tables.present():
        for value in table.rows.unique(column):
            if not accepts(value):
                row = table.row_of(column, value)
                raise DataError(f"{table.source}: label {value!r} in row {row} (column {column!r}) {complaint}")


def _names(config: PreTrainedConfig) -> tuple[str, ...]:
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return tuple(names[index] for index in sorted(names))


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{index}" for index in range(count))


def _has_decimals(value: Any) -> bool:
    return isinstance(value, float) and not value.is_integer()


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _logits(prediction: EvalPrediction) -> np.ndarray[Any, Any]:
    """Logits [examples, labels]; models that return more give them first."""
    predictions = prediction.predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
