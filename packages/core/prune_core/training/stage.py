"""One training of a run, from the last whole checkpoint to its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.integrations.integration_utils import TensorBoardCallback

from prune_core.distributed.agreement import processes, wait
from prune_core.distributed.processes import is_main
from prune_core.errors import TrainingError, brief
from prune_core.training import checkpoints
from prune_core.training.callbacks import Interruption, Watch
from prune_core.training.progress import progress_bar

if TYPE_CHECKING:
    from transformers import TrainerState

    from prune_core.training.trainer import PruningTrainer

logger = logging.getLogger(__name__)


def train(trainer: PruningTrainer, log: Path, stage: str) -> None:
    """Train, from the last whole checkpoint where there is one; every log line also goes to `log`.

    Where there were evaluations, the model is in the end the one of the best at the final density. KeyboardInterrupt
    after Ctrl-C, once a checkpoint has been saved.
    """
    folder = Path(str(trainer.args.output_dir))
    last = checkpoints.last(folder)
    state = checkpoints.state_of(last) if last else None
    if is_main():
        checkpoints.forget(log, stage, state.global_step if state else 0)
    wait()
    if last and state:
        _check_processes(last)
    if last and state and trainer.judge.is_over(state):  # the Trainer would do one step more
        trainer.restore(last)
    else:
        state = _trained(trainer, log, stage, last)
    best = trainer.judge.best(state)
    if best is not None and best != state.global_step:
        logger.info("the model of step %d is kept: it was the best at the final density", best)
        trainer.restore(_whole(folder / f"checkpoint-{best}"))


def _trained(trainer: PruningTrainer, log: Path, stage: str, last: Path | None) -> TrainerState:
    if last:
        logger.info("resuming from %s", last)
    interruption = Interruption()
    trainer.add_callback(interruption)
    trainer.add_callback(Watch(log, stage))
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(log.parent / "tensorboard" / stage)
    with progress_bar(trainer, stage), interruption.listening(), enough_memory(stage):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    if interruption.asked():
        raise KeyboardInterrupt
    return trainer.state


@contextmanager
def enough_memory(stage: str) -> Iterator[None]:
    """TrainingError, with what takes less, where a GPU has not enough memory, or the system refuses more."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"{stage}: there is not enough memory ({brief(error, 120)}): lower training.batch_size and raise "
            "training.gradient_accumulation as much, or set training.gradient_checkpointing or distillation.cache, and "
            "start anew with --overwrite; --resume goes on only as the run was begun"
        ) from error


def _whole(best: Path) -> Path:
    """The checkpoint of the best evaluation; TrainingError where it cannot be read: no other has that model."""
    found = checkpoints.damage(best)
    if found:
        raise TrainingError(
            f"{best}, the best one, is damaged ({', '.join(found)}): remove {best.parent} and run with "
            "--resume to train again"
        )
    return best


def _check_processes(checkpoint: Path) -> None:
    """TrainingError where other processes than now have made a checkpoint: steps and data would be others."""
    made = len(list(checkpoint.glob("rng_state*.pth")))
    if made != processes():
        raise TrainingError(
            f"{checkpoint} was made by {made} processes, and this run has {processes()}: start as many as before"
        )
