"""The Trainer of a run: a task, with a strategy and a teacher where there are any."""

from __future__ import annotations

import logging
import math
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from prune_core.errors import TrainingError
from prune_core.examples import numbered, parted
from prune_core.pretrained import brief
from prune_core.progress import progress_bar
from prune_core.strategy import Progress, Strategy
from prune_core.training import checkpoints
from prune_core.training.callbacks import StrategySteps, Watch
from prune_core.training.faults import first_not_finite
from prune_core.training.sampling import ByLength, InOrder, is_text, lengths_of

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.task import Task
    from prune_core.teacher import Teacher

logger = logging.getLogger(__name__)


class PruningTrainer(Trainer):
    """A Trainer of a task, with a strategy's penalty and parameter groups, and a teacher. Either may be absent."""

    loss_is_scaled_for_ga: bool | None = False  # the model's loss is a plain batch mean (transformers #47688)

    def __init__(
        self,
        *,
        task: Task,
        strategy: Strategy | None = None,
        teacher: Teacher | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=numbered(task.collate), compute_metrics=task.metrics, **kwargs)
        self.remove_callback(PrinterCallback)
        self.task = task
        self.strategy = strategy
        self.teacher = teacher
        if teacher is not None:
            teacher.to(self.args.device)
        if strategy is not None:
            self.add_callback(StrategySteps(strategy))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.strategy is None or self.optimizer is not None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args)
        groups = self.strategy.parameter_groups(self.args.learning_rate, self.args.weight_decay)
        self.optimizer = kind(groups, **options)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One batch; TrainingError, before the weights or a checkpoint can take harm, when its loss is no number."""
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            prepared, _ = parted(self._prepare_inputs(inputs))
            layer = first_not_finite(model, lambda: self.task.forward(model, prepared))
            raise self._astray(
                f"the loss is {float(loss)}",
                f"the first layer that puts out nan or infinity is {layer}"
                if layer
                else "every layer's output is finite, so it comes of the labels or the strategy's penalty",
            )
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip; TrainingError where a finite loss has gradients that would make every weight nan at this step."""
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if not math.isfinite(norm) and self.accelerator.scaler is None:  # a scaler skips such steps by itself
            raise self._astray(f"the norm of the gradients is {float(norm)}", "the loss itself is finite")
        return norm

    def _astray(self, what: str, where: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.state.global_step + 1}: lower training.learning_rate (now "
            f"{self.args.learning_rate}); {where}; nothing was saved after the last checkpoint"
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        teacher = self.teacher if model.training else None
        inputs, examples = parted(inputs)
        outputs = self.task.forward(model, inputs, **(teacher.wanted if teacher is not None else {}))
        loss: Any = self.task.loss(outputs, inputs) if teacher is None else teacher.loss(outputs, inputs, examples)
        if self.strategy is not None and model.training:
            loss = loss + self.strategy.penalty()
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Any, Any]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            predictions, references = self.task.predict(model, inputs)
        return None, predictions, references

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = lengths_of(self.train_dataset if train_dataset is None else train_dataset)
        return ByLength(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler[int] | None:
        """The longest texts first, so that batches hold little padding; metrics do not depend on the order."""
        if not is_text(eval_dataset):
            return super()._get_eval_sampler(eval_dataset)
        lengths = lengths_of(eval_dataset)
        return InOrder(sorted(range(len(lengths)), key=lambda index: -lengths[index]))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A checkpoint takes its name only once it is whole, and the one before it stays until then."""
        final = Path(str(self.args.output_dir))
        drafts = final / ".draft"
        shutil.rmtree(drafts, ignore_errors=True)
        self.args.output_dir = str(drafts)
        try:
            super()._save_checkpoint(model, trial)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch and safetensors have their own for a full disk
            shutil.rmtree(drafts, ignore_errors=True)
            raise TrainingError(
                f"no checkpoint could be written at step {self.state.global_step}: {brief(error)}; the last whole one "
                f"is {get_last_checkpoint(str(final)) or 'none'}: make room and run again with --resume"
            ) from error
        finally:
            self.args.output_dir = str(final)
        for checkpoint in drafts.glob("checkpoint-*"):
            target = final / checkpoint.name
            shutil.rmtree(target, ignore_errors=True)
            checkpoint.rename(target)
        shutil.rmtree(drafts)
        checkpoints.rotate(final)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Keep the names that the model has now: renamed ones are not found again on resume (transformers #48805)."""
        model: Any = self.model
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained


def make_trainer(
    model: PreTrainedModel, task: Task, args: TrainingArguments, train: Dataset | None = None, **parts: Any
) -> PruningTrainer:
    """A trainer of `model` on `task`; `parts`: strategy, teacher, callbacks, where there are any."""
    return PruningTrainer(model=model, args=args, train_dataset=train, task=task, **parts)


def train(trainer: PruningTrainer, log: Path, stage: str) -> None:
    """Train, from the last whole checkpoint where there is one; every log line also goes to `log`."""
    folder = str(trainer.args.output_dir)
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    done = checkpoints.steps_done(last) if last else (0, 1)
    checkpoints.forget(log, stage, done[0])
    if last:
        logger.info("resuming from %s", last)
    if last and done[0] >= done[1]:  # the Trainer would do one step more
        trainer._load_from_checkpoint(last)
        if trainer.strategy is not None:
            trainer.strategy.step(Progress(*done))
        return
    trainer.add_callback(Watch(log, stage, trainer.strategy))
    with progress_bar(trainer, stage):
        trainer.train(resume_from_checkpoint=last)
