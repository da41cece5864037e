"""The teacher of a training: what it puts out for a batch, and the loss of a student against it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune_core.kit.distillation import hidden_loss, logits_loss, regression_loss, vector_loss
from prune_core.task import IGNORED, Task

if TYPE_CHECKING:
    from prune_core.recipe import DistillationSection

_STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


@dataclass(frozen=True)
class Lesson:
    """What a model puts out for a batch, as far as it is imitated: by name, `states` layer by layer."""

    taught: dict[str, Tensor]
    states: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)


class Teacher:
    """A model to imitate on a task, with the weights of a recipe's distillation."""

    def __init__(self, model: PreTrainedModel, task: Task, section: DistillationSection) -> None:
        self.model, self.task, self.section = model.eval().requires_grad_(False), task, section
        self._accepted = inspect.signature(model.forward).parameters  # another family may take fewer inputs

    @property
    def wants_states(self) -> bool:
        """Whether the student must put out its hidden states."""
        return self.section.hidden_states > 0

    def to(self, device: torch.device) -> None:
        nn.Module.to(self.model, device)

    def loss(self, outputs: Any, batch: dict[str, Any]) -> Tensor:
        """The whole loss of a training step: the task's own and the imitation, by their weights."""
        section, mine, theirs = self.section, self._lesson(outputs, batch), self.lesson(batch)
        own = self.task.loss(outputs, batch)
        loss: Tensor = section.logits * self._imitation(mine, theirs, batch)
        if own is not None:
            loss = loss + section.cross_entropy * own
        for name in mine.states.keys() & theirs.states.keys():
            mask = _positions(name, batch)
            loss = loss + section.hidden_states * hidden_loss(mine.states[name], theirs.states[name], mask)
        return loss

    def lesson(self, batch: dict[str, Any]) -> Lesson:
        """What the teacher puts out for a batch."""
        wanted = {name: value for name, value in self.task.model_inputs(batch).items() if name in self._accepted}
        with torch.no_grad():
            return self._lesson(self.model(**wanted, output_hidden_states=self.wants_states), batch)

    def _lesson(self, outputs: Any, batch: dict[str, Any]) -> Lesson:
        states = {name: outputs[name] for name in _STATES if outputs.get(name) is not None} if self.wants_states else {}
        return Lesson(self.task.taught(outputs, batch), states)

    def _imitation(self, mine: Lesson, theirs: Lesson, batch: dict[str, Any]) -> Tensor:
        counted, losses = self.task.counted(batch), []
        for name, student in mine.taught.items():
            pair = (student, theirs.taught[name])
            if counted is not None:
                pair = (pair[0][counted], pair[1][counted])
            losses.append(self._difference(*pair))
        return torch.stack(losses).mean()

    def _difference(self, mine: Tensor, theirs: Tensor) -> Tensor:
        if self.task.imitation == "distribution":
            return logits_loss(mine, theirs, self.section.temperature)
        return (regression_loss if self.task.imitation == "value" else vector_loss)(mine, theirs)


def _positions(states: str, batch: dict[str, Any]) -> Tensor | None:
    """Which tokens of hidden states are no padding."""
    if states == "decoder_hidden_states":
        labels = batch.get("labels")
        return None if labels is None else (labels != IGNORED).long()
    return batch.get("attention_mask")
