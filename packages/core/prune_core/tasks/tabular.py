"""What tasks on tables of examples have in common: reading and parting the tables, and models with the task's head."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from prune_core.errors import DataError, listed
from prune_core.folders.pretrained import load_pretrained, read_config
from prune_core.task import Task, TaskConfig
from prune_core.tasks.data import Table, Tables, check_roles, hold_out, read_tables
from prune_core.tasks.labels import label_names
from prune_core.tasks.texts import head_class

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel


logger = logging.getLogger(__name__)


class TabularTask(Task):
    """A task on tables, each row an example. `prepare` looks at all of them, `features` makes what `collate` takes."""

    roles: ClassVar[tuple[str, ...]]
    """What a column may be, as `task.columns` names it."""
    auto_class: ClassVar[str]
    """The class of transformers that loads a model with the head, such as AutoModelForSequenceClassification."""
    head: ClassVar[str | None] = None
    """How the classes of models with a head for this task end, such as ForSequenceClassification; None where it is the
    class alone that `auto_class` has for a configuration."""

    def __init__(self, section: TaskConfig, model: str) -> None:
        super().__init__(section, model)
        check_roles(section.columns, self.roles)
        tables = read_tables(section)
        self.config = read_config(model)
        parted = hold_out(self.prepare(tables))
        self._train = parted.train.first(section.max_train_samples) if parted.train else None
        limit = section.max_validation_samples
        self._validation = parted.validation.first(limit) if parted.validation else None
        self._further = {name: table.first(limit) for name, table in parted.further.items()}
        self._made: dict[str, Dataset] = {}

    @abstractmethod
    def prepare(self, tables: Tables) -> Tables:
        """Find and check the columns, set `metric` and load the processor. DataError for a fault in the data."""

    @abstractmethod
    def features(self, table: Table) -> Dataset:
        """The rows as `collate` takes them."""

    def new_head(self) -> dict[str, Any]:
        """Options of `from_pretrained` for a head that is not trained yet."""
        return {}

    def fits(self, config: PreTrainedConfig) -> bool:
        """Whether a head for this task, with this configuration, predicts exactly what the data ask for."""
        return True

    def load_model(self, path: str) -> PreTrainedModel:
        import transformers

        options = {} if self.has_trained_head(path) else {**self.new_head(), "new_head": True}
        config = read_config(path)
        if options and self._has_head(config):
            logger.warning(
                "the head of %s was trained for other labels, %s, than the data have: it is replaced by a new one",
                path,
                listed(label_names(config)),
            )
        return load_pretrained(getattr(transformers, self.auto_class), path, **options)

    def has_trained_head(self, path: str) -> bool:
        config = read_config(path)
        return self._has_head(config) and self.fits(config)

    def _has_head(self, config: PreTrainedConfig) -> bool:
        named = config.architectures or []
        if self.head is None:
            return head_class(self.auto_class, config) in named
        return any(name.endswith(self.head) for name in named)

    def judged(self, name: str, features: Dataset) -> Dataset:
        """Validation features with what figures need beside them; `name` is that of a further set, or empty."""
        return features

    def train(self) -> Dataset:
        if "train" not in self._made:
            self._made["train"] = self.features(self._need(self._train, "training", "--train-file"))
        return self._made["train"]

    def validation(self) -> Dataset:
        return self._validated("", self._need(self._validation, "validation", "--validation-file"))

    def further_validation(self) -> dict[str, Dataset]:
        return {name: self._validated(name, table) for name, table in self._further.items()}

    def _validated(self, name: str, table: Table) -> Dataset:
        part = f"validation {name}"
        if part not in self._made:
            self._made[part] = self.judged(name, self.features(table))
        return self._made[part]

    def _need(self, table: Table | None, kind: str, flag: str) -> Table:
        if table is None:
            raise DataError(f"no {kind} data: name a file with {flag}")
        return table
