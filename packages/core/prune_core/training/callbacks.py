"""What happens beside the steps of a training: the strategy is told of them, they are logged, Ctrl-C is obeyed."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prune_core.distributed.agreement import any_of
from prune_core.strategy import Progress, Strategy

logger = logging.getLogger(__name__)

ONE_PRESS = 1.0
"""Seconds within which interrupts are one: torchrun hands on the Ctrl-C that its processes had from the terminal."""


class StrategySteps(TrainerCallback):
    """Tells the strategy where the training is: at its begin (or resume) and after each optimizer step."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))


class Watch(TrainerCallback):
    """Appends every log line to metrics.jsonl, in the main process."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        line = {"stage": self.stage, "step": state.global_step, **(logs or {})}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Interruption(TrainerCallback):
    """After Ctrl-C in any process, the step is finished and a checkpoint saved; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._asked: float | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C in the meantime."""
        if threading.current_thread() is not threading.main_thread():  # only that one is told of signals
            yield
            return
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked():
            control.should_save = control.should_training_stop = True

    def asked(self) -> bool:
        """Whether any process was interrupted; all must ask."""
        return any_of(self._asked is not None)

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            logger.warning("interrupted: this step is finished and saved; Ctrl-C again stops at once")
        elif now - self._asked > ONE_PRESS:
            raise KeyboardInterrupt
