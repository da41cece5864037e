"""Task: data, features, model head, metric of what a model is trained to do, and what a teacher shows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict

from prune_core.errors import RecipeError, nearest
from prune_core.recipe import TaskSection

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedModel


IGNORED = -100
"""Label of a token that counts for nothing, as in PyTorch and transformers."""
ITEMS = "items"
"""Name, among what a batch holds a number of, of what the task's own loss is the mean over."""


class TaskConfig(TaskSection):
    """Base of every task's configuration: frozen, no unknown field, every field described."""

    model_config = ConfigDict(extra="forbid")


class Task(ABC):
    """One task on one data set. The constructor reads the data and raises DataError, naming file and column.

    `model` is the folder or hub name whose processor (tokenizer, image processor) and labels are used.
    """

    greater_is_better: ClassVar[bool] = True
    imitation: Literal["distribution", "value", "vector"] = "distribution"
    """How what is taught is imitated: as distributions over the last axis (T^2 KL), as values (squared error), or as
    vectors along it (squared error, relative to their length)."""
    needs_teacher: bool = False
    """Whether the training data say nothing of what is right, so that only a teacher can train a model."""

    metric: str
    """Name, in what `metrics` returns, of the figure that the task is judged by."""
    processor: Any
    """Tokenizer or image processor; saved with every model of this task."""
    inputs: tuple[str, ...]
    """Names of the model inputs that a batch holds besides labels."""

    def __init__(self, config: TaskConfig, model: str) -> None:
        self.section = config
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
        """Validation features, the same object at each call."""

    def further_validation(self) -> Mapping[str, Dataset]:
        """Features of other validation sets, by name; the names of their figures end in it."""
        return {}

    @abstractmethod
    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A padded batch, labels included; of training features it holds what the model's forward takes."""

    def forward(self, model: Any, batch: dict[str, Any], **options: Any) -> Any:
        """The model's outputs for a batch of training features."""
        return model(**batch, **options)

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor | None:
        """The task's own loss of a training batch, its mean; None where there is none."""
        own: Tensor | None = getattr(outputs, "loss", None)
        return own

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch the model computes from: no labels."""
        return {name: batch[name] for name in self.inputs if name in batch}

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
        """What `metrics` needs of one batch: predictions and what they are judged by, [examples, ...] each.

        Both are tensors or tuples of tensors. Batches come in any order.
        """
        return model(**self.model_inputs(batch)).logits, batch["labels"]

    @abstractmethod
    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of what `predict` gave of all batches, `metric` among them."""

    def taught(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What a student learns from its teacher, of a model's outputs: by name, [batch, ..., classes or features]."""
        return {"logits": outputs.logits}

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Which positions of what is taught count, [batch, tokens]; None for all."""
        return None


def choose_metric(asked: str | None, figures: Sequence[str]) -> str:
    """The figure that was asked for, by default the first of a task's `figures`; RecipeError where it has no such."""
    if asked is None or asked in figures:
        return asked or figures[0]
    raise RecipeError(
        f"task.metric: unknown figure {asked!r}; {nearest(asked, figures)}this task measures {', '.join(figures)}"
    )
