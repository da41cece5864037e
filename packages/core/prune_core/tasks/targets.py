"""Targets: what a head predicts, classes or a number. How labels are encoded, which heads fit, and the metrics."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import ClassLabel, Value
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction, PreTrainedConfig

from prune_core.errors import DataError
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.labels import (
    Labels,
    decode_class_labels,
    find_labels,
    has_decimals,
    refuse_labels,
    refuse_words_among_numbers,
    values_of,
)


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
    """One of several classes."""

    labels: Labels

    figures: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    imitation: ClassVar[Literal["distribution", "value"]] = "distribution"

    def encode(self, value: Any) -> int:
        return self.labels.encode(value)

    def fits(self, config: PreTrainedConfig) -> bool:
        return self.labels.fits(config)

    def head(self) -> dict[str, Any]:
        return {**self.labels.head(), "problem_type": "single_label_classification"}

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """accuracy; f1: of class 1 where there are two classes, the mean over classes where there are more; matthews:
        Matthews correlation.
        """
        truth, guess = prediction.label_ids, _logits(prediction).argmax(-1)
        average = "binary" if len(self.labels.names) == 2 else "macro"
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


def find_target(
    tables: Tables, column: str, regression: bool | None, config: PreTrainedConfig
) -> tuple[Tables, Target]:
    """The target that the labels of the training table call for (of validation where there is no training).

    With the tables as `encode` takes their labels. `config` is the model's: where its labels are those of the data, its
    order is kept. DataError for a label that is missing, is neither text nor number, or is in validation and not in
    training.
    """
    tables = decode_class_labels(tables, column)
    for table in tables.present():
        if not isinstance(table.features[column], ClassLabel | Value):
            raise DataError(f"{table.source}: column {column!r} holds {_held(table, column)}")
        table.refuse_nulls("label", column)
    if regression is None:
        refuse_words_among_numbers(tables.present()[0], column)
    values = values_of(tables.present()[0], column)
    if regression or (regression is None and any(has_decimals(value) for value in values)):
        refuse_labels(tables, column, _is_finite, "is no number; regression needs numbers")
        return tables, Number()
    return tables, Classes(find_labels(tables, column, config))


def _held(table: Table, column: str) -> str:
    """What a column holds that is of no single type, and what it should."""
    if not table.holds_lists(column):
        first, *others = table.rows[column]
        for row, value in enumerate(others, 2):
            if type(value) is not type(first):
                return f"{first!r} in row 1 and {value!r} in row {row}; labels are all strings or all numbers"
    found = "lists" if table.holds_lists(column) else table.features[column]
    return f"{found}; a label is one string or one number"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _logits(prediction: EvalPrediction) -> np.ndarray[Any, Any]:
    """Logits [examples, labels]; models that return more give them first."""
    predictions = prediction.predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
