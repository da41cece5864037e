"""What classifying texts and images have in common: labels, heads and metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from prune_core.task import choose_metric
from prune_core.tasks.data import Tables, label_column
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.targets import find_target

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedConfig

    from prune_core.tasks.config import ImageClassificationConfig, TextClassificationConfig


class ClassificationTask(TabularTask):
    """A task with one label, class or number, for each example."""

    section: ImageClassificationConfig | TextClassificationConfig

    def prepare(self, tables: Tables) -> Tables:
        self.label = label_column(tables.present()[0], self.section.columns)
        for table in tables.present():
            table.require("label", self.label)
        tables, self.target = find_target(tables, self.label, self.section.regression, self.config)
        self.metric = choose_metric(self.section.metric, self.target.figures)
        self.imitation = self.target.imitation
        return self.find_inputs(tables)

    @abstractmethod
    def find_inputs(self, tables: Tables) -> Tables:
        """Find and check the columns of the inputs, and load the processor. DataError for a fault in the data."""

    def new_head(self) -> dict[str, Any]:
        return self.target.head()

    def fits(self, config: PreTrainedConfig) -> bool:
        return self.target.fits(config)

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self.target.metrics(prediction)
