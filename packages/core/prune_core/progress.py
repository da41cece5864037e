"""A progress bar for every stage of a run, on the error stream: step, loss, density, time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, track
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from transformers import Trainer


def one_bar_a_stage() -> None:
    """Turn off transformers' own bars, one for every file that is read or written."""
    disable_progress_bar()


@contextmanager
def progress_bar(trainer: Trainer, stage: str) -> Iterator[None]:
    """A bar for what `trainer` does in the meantime, gone at its end, however that comes.

    A bar hides the cursor and redraws itself from a thread of its own: left alone by an error it would go on so.
    """
    bar = ProgressBar(stage)
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
    """Shows one training, or one evaluation, as a bar; keeps quiet where the error stream is no terminal."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start(state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        shown = {name: value for name, value in (logs or {}).items() if name in ("loss", "mask_density")}
        if shown:
            self._advance(figures="  ".join(f"{name} {value:.4g}" for name, value in shown.items()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self._bar is None:
            self._start(len(eval_dataloader), 0)
        self._advance(advance=1)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self.stop()

    def _start(self, total: int, completed: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn(self.stage), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[figures]}"), console=console, disable=not console.is_terminal
        )
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
