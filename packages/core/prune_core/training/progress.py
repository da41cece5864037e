"""A progress bar for every stage of a run, on the error stream: step, time left, loss, metric, density and target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, track
from transformers import TrainerCallback

from prune_core.distributed.processes import is_main

if TYPE_CHECKING:
    from transformers import Trainer


@contextmanager
def progress_bar(trainer: Trainer, stage: str) -> Iterator[None]:
    """A bar for what `trainer` does in the meantime, gone at its end, however that comes.

    A bar hides the cursor and redraws itself from a thread of its own: left alone by an error it would go on so.
    """
    strategy = getattr(trainer, "strategy", None)
    target = getattr(strategy, "target", None)
    bar = ProgressBar(stage, getattr(getattr(trainer, "task", None), "metric", None), target)
    trainer.add_callback(bar)
    try:
        yield
    finally:
        bar.stop()
        trainer.remove_callback(bar)


def steps_shown(steps: Sequence[int], stage: str) -> Iterable[int]:
    """`steps`, with a bar for those that are done where the error stream is a terminal."""
    console = Console(stderr=True)
    return track(steps, stage, console=console, transient=True, disable=not (steps and console.is_terminal))


class ProgressBar(TrainerCallback):
    """Shows one training, or one evaluation, as a bar; keeps quiet where the error stream is no terminal.

    `metric` is shown as it was at the last evaluation, the density beside the `target` that it moves to.
    """

    def __init__(self, stage: str, metric: str | None = None, target: float | None = None) -> None:
        self.stage, self.metric, self.target = stage, metric, target
        self._figures: dict[str, str] = {}
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True
        self._start(state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        aim = "" if self.target is None else f" of {self.target:.4g}"
        forms = {
            "loss": "loss {:.4g}",
            f"eval_{self.metric}": f"{self.metric} {{:.4g}}",
            "mask_density": "density {:.4g}" + aim,
        }
        self._figures |= {name: forms[name].format(value) for name, value in (logs or {}).items() if name in forms}
        self._advance(figures="  ".join(self._figures[name] for name in forms if name in self._figures))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self._bar is None:
            self._start(len(eval_dataloader), 0)
        if not self._training:
            self._advance(advance=1)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self.stop()

    def _start(self, total: int, completed: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn(self.stage), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = not (console.is_terminal and is_main())
        self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console, disable=hidden)
        self._task = self._bar.add_task(self.stage, total=total, completed=completed, figures="")
        self._bar.start()

    def _advance(self, **changes: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, **changes)

    def stop(self) -> None:
        """Leave the bar as it stands and give the cursor back; nothing where there is no bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
