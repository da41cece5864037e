"""What happens beside the steps of a training: the strategy is told of them, and they are logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prune_core.strategy import Progress, Strategy


class StrategySteps(TrainerCallback):
    """Tells the strategy where the training is: at its begin (or resume) and after each optimizer step."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))


class Watch(TrainerCallback):
    """Appends every log line to metrics.jsonl."""

    def __init__(self, path: Path, stage: str, strategy: Strategy | None) -> None:
        self.path, self.stage, self.strategy = path, stage, strategy

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        line: dict[str, Any] = {"stage": self.stage, "step": state.global_step, **(logs or {})}
        if self.strategy is not None and logs is not None and "loss" in logs:
            line["mask_density"] = logs["mask_density"] = round(self.strategy.masks().density(), 4)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
