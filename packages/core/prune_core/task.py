"""Task: data, features, model head and metric of what a model is trained to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedModel

    from prune_core.recipe import TaskSection


class Task(ABC):
    """One task on one data set. The constructor reads the data and raises DataError, naming file and column.

    `model` is the folder or hub name whose processor (tokenizer, image processor) and labels are used.
    """

    metric: str
    """Name, in what `metrics` returns, of the figure that the task is judged by (higher is better)."""
    processor: Any
    """Tokenizer or image processor; saved with every model of this task."""
    inputs: tuple[str, ...]
    """Names of the model inputs that a batch holds besides labels."""

    def __init__(self, section: TaskSection, model: str) -> None:
        self.section = section
        self.source = model

    @abstractmethod
    def load_model(self, path: str) -> PreTrainedModel:
        """The model of `path` in float32 with this task's head and labels. ModelError where that cannot be."""

    @abstractmethod
    def has_trained_head(self, path: str) -> bool:
        """Whether `path` already holds a head trained for exactly these labels."""

    @abstractmethod
    def train(self) -> Dataset:
        """Training features."""

    @abstractmethod
    def validation(self) -> Dataset:
        """Validation features."""

    @abstractmethod
    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A padded batch, labels included."""

    @abstractmethod
    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of a prediction, `metric` among them."""
