"""Which evaluation of a training is the best one: those at the final density compete, by the task's metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune_core.strategy import Progress, Strategy

if TYPE_CHECKING:
    from transformers import TrainerState

    from prune_core.task import Task


@dataclass(frozen=True)
class Judge:
    """Everything follows from the log that a checkpoint holds, so a resumed training judges as one never stopped.

    Without a strategy (the model is compact already) every evaluation competes.
    """

    task: Task
    strategy: Strategy | None
    patience: int | None = None

    def best(self, state: TrainerState) -> int | None:
        """Step of the best evaluation so far, the first of equals; None where none was at the final density."""
        values = self._values(state)
        return max(values, key=lambda step: values[step]) if values else None

    def is_over(self, state: TrainerState) -> bool:
        """Whether the training has ended: by its steps, or by its patience with evaluations after the best one."""
        if state.global_step >= state.max_steps:
            return True
        values, best = self._values(state), self.best(state)
        return self.patience is not None and sum(step > (best or 0) for step in values) >= self.patience

    def _values(self, state: TrainerState) -> dict[int, float]:
        """Step -> figure of the evaluations at the final density, such that more is better."""
        name, sign = f"eval_{self.task.metric}", 1 if self.task.greater_is_better else -1
        found = {int(line["step"]): sign * line[name] for line in state.log_history if name in line}
        return {
            step: -math.inf if math.isnan(value) else value
            for step, value in found.items()
            if self.strategy is None or self.strategy.settled(Progress(step, state.max_steps))
        }
