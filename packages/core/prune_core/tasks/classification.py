"""What classifying texts and images have in common: tables, labels, heads and metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from prune_core.errors import DataError
from prune_core.pretrained import load_pretrained, read_config
from prune_core.task import Task, choose_metric
from prune_core.tasks.data import Table, Tables, check_roles, hold_out, label_column, read_tables
from prune_core.tasks.targets import decode_class_labels, find_target

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel

    from prune_core.tasks.config import ImageClassificationConfig, TextClassificationConfig


class ClassificationTask(Task):
    """A task with one label, class or number, for each example."""

    roles: ClassVar[tuple[str, ...]]
    auto_class: ClassVar[str]
    head: ClassVar[str]
    """How the classes of models with a head for this task end, such as ForSequenceClassification."""

    def __init__(self, section: ImageClassificationConfig | TextClassificationConfig, model: str) -> None:
        super().__init__(section, model)
        check_roles(section.columns, self.roles)
        tables = read_tables(section)
        self.config = read_config(model)
        self.label = label_column(tables.present()[0], section.columns)
        for table in tables.present():
            table.require("label", self.label)
        tables = decode_class_labels(tables, self.label)
        self.target = find_target(tables, self.label, section.regression, self.config)
        self.metric = choose_metric(section.metric, self.target.figures)
        self.imitation = self.target.imitation
        tables = self.prepare(tables)
        parted = hold_out(tables)
        self._train = parted.train.first(section.max_train_samples) if parted.train else None
        limit = section.max_validation_samples
        self._validation = parted.validation.first(limit) if parted.validation else None
        self._further = {name: table.first(limit) for name, table in parted.further.items()}

    @abstractmethod
    def prepare(self, tables: Tables) -> Tables:
        """Find and check the columns of the inputs, and load the processor. DataError for a fault in the data."""

    @abstractmethod
    def features(self, table: Table) -> Dataset:
        """The rows as `collate` takes them."""

    def load_model(self, path: str) -> PreTrainedModel:
        import transformers

        options = {} if self.has_trained_head(path) else {**self.target.head(), "ignore_mismatched_sizes": True}
        return load_pretrained(getattr(transformers, self.auto_class), path, **options)

    def has_trained_head(self, path: str) -> bool:
        config = read_config(path)
        return any(name.endswith(self.head) for name in config.architectures or []) and self.target.fits(config)

    def train(self) -> Dataset:
        return self.features(self._need(self._train, "training", "--train-file"))

    def validation(self) -> Dataset:
        return self.features(self._need(self._validation, "validation", "--validation-file"))

    def further_validation(self) -> dict[str, Dataset]:
        return {name: self.features(table) for name, table in self._further.items()}

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self.target.metrics(prediction)

    def _need(self, table: Table | None, kind: str, flag: str) -> Table:
        if table is None:
            raise DataError(f"no {kind} data: name a file with {flag}")
        return table
