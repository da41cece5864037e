"""The Trainer of a run: a task, with a strategy and a teacher where there are any."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from prune_core.arithmetic import as_before
from prune_core.distillation.examples import BESIDE, Beside, Numbered, noted, parted
from prune_core.distributed.agreement import ended_elsewhere, processes, totals, wait
from prune_core.distributed.processes import is_main
from prune_core.distributed.sharding import undivided
from prune_core.errors import TrainingError, brief
from prune_core.strategy import Progress, Strategy
from prune_core.task import ITEMS
from prune_core.training import checkpoints
from prune_core.training.callbacks import StrategySteps
from prune_core.training.faults import first_not_finite
from prune_core.training.judge import Judge
from prune_core.training.sampling import ByLength, InOrder, is_text, lengths_of

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.distillation.teacher import Teacher
    from prune_core.task import Task

logger = logging.getLogger(__name__)

SMALLEST_SCALE = 1.0
"""Gradients that are not finite in fp16 at a smaller loss scale than this do not come of the scale."""


class PruningTrainer(Trainer):
    """A Trainer of a task, with a strategy's penalty and parameter groups, and a teacher. Either may be absent."""

    loss_is_scaled_for_ga: bool | None = False  # the model's loss is a plain batch mean (transformers #47688)
    sharded: ClassVar[bool] = False
    """Whether weights are divided among the processes."""

    def __init__(
        self,
        *,
        task: Task,
        strategy: Strategy | None = None,
        teacher: Teacher | None = None,
        patience: int | None = None,
        **kwargs: Any,
    ) -> None:
        if (examples := kwargs.pop("train_dataset", None)) is not None:
            kwargs["train_dataset"] = Numbered(examples)
        with _as_given(kwargs["model"]), as_before():
            super().__init__(data_collator=noted(task, teacher), compute_metrics=task.metrics, **kwargs)
        self.remove_callback(PrinterCallback)
        self.task = task
        self.strategy = strategy
        self.teacher = teacher
        self.judge = Judge(task, strategy, patience)
        self._losses: list[tuple[Tensor, dict[str, Any]]] = []  # of the batches of a step, and what they were made of
        if teacher is not None:
            teacher.to(self.args.device, sharded=self.sharded)
        if strategy is not None:
            self.add_callback(StrategySteps(strategy))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.strategy is None or self.optimizer is not None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args)
        self.optimizer = kind(self._parameter_groups(), **options)
        return self.optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        assert self.strategy is not None
        return self.strategy.parameter_groups(self.args.learning_rate, self.args.weight_decay)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with _as_given(self.model):
            return super().train(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with _as_given(self.model):
            return super().predict(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One batch. Whether its loss is a number is asked in the end of its step: that waits for the device."""
        penalty = self._penalty(model)
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs) + penalty
        self._losses.append((loss, inputs))
        return loss

    def _where(self, inputs: dict[str, Any]) -> str:
        """Where in the model a loss that is no number comes from."""
        alone, (prepared, _) = self.model, parted(self._prepare_inputs(inputs))  # DDP's forward would wait
        assert alone is not None
        layer = first_not_finite(alone, lambda: self.task.forward(alone, prepared))
        if layer is None:
            return "every layer's output is finite, so it comes of the labels or the strategy's penalty"
        return f"the first layer that puts out nan or infinity is {layer}"

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip; TrainingError, before the weights or a checkpoint can take harm, where a loss of this step, or the norm
        of its gradients, is no number. All of that is asked at once, for each question waits for the device.
        """
        norm = undivided(super()._clip_grad_norm(model))  # type: ignore[no-untyped-call]
        batches, self._losses = self._losses, []
        size, *losses = torch.stack([norm.float(), *(loss.float() for loss, _ in batches)]).tolist()
        for loss, (_, inputs) in zip(losses, batches, strict=True):
            if not math.isfinite(loss):
                raise self._astray(f"the loss is {loss}", self._where(inputs))
        scaler = self.accelerator.scaler
        if math.isfinite(size):
            return norm
        if scaler is None:
            raise self._astray(f"the norm of the gradients is {size}", "the loss itself is finite")
        if scaler.get_scale() < SMALLEST_SCALE:  # a scaler skips such steps by itself, and tries a smaller one
            raise self._astray(f"the norm of the gradients is {size} in fp16", "bf16 has a wider range")
        return norm

    def _astray(self, what: str, where: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.state.global_step + 1}: lower training.learning_rate (now "
            f"{self.args.learning_rate}); {where}; nothing was saved after the last checkpoint"
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; where a step has several, of such mean numbers, its part of the step's."""
        teacher = self.teacher if model.training else None
        inputs, beside = parted(inputs)
        outputs = self.task.forward(model, inputs, **(teacher.wanted if teacher is not None else {}))
        shares = self._shares(beside, num_items_in_batch)
        with self.accelerator.autocast():
            if teacher is not None:
                loss = teacher.loss(outputs, inputs, beside, shares)
            else:
                own: Any = self.task.loss(outputs, inputs)
                loss = own * shares[ITEMS]
        return (loss, outputs) if return_outputs else loss

    def _shares(self, beside: Beside | None, means: Mapping[str, float] | None) -> dict[str, float]:
        """How the numbers of what a batch holds compare with the `means` of its step."""
        if means is None or beside is None:
            return {ITEMS: 1.0}
        return {name: count / means[name] for name, count in beside.counts.items()}

    def _penalty(self, model: nn.Module) -> Tensor | float:
        """The strategy's penalty, as its part of a step of several batches; its gradients are added at once.

        Before those of the loss: DDP, which does not see the penalty in its forward, then takes both together.
        """
        model.train()
        if self.strategy is None:
            return 0.0
        penalty = self.strategy.penalty() / self.current_gradient_accumulation_steps
        if penalty.requires_grad:
            self.accelerator.backward(penalty)
        return penalty.detach()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Mean numbers of what a batch of this step holds, over all processes; None where one batch is all of it.

        With it, a mean over each batch becomes the mean over the whole step.
        """
        if len(batch_samples) * processes() < 2:
            return None
        found = [batch[BESIDE].counts for batch in batch_samples]
        sums = totals([sum(one[name] for one in found) for name in found[0]])
        return {name: count / (len(batch_samples) * processes()) for name, count in zip(found[0], sums, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.strategy is not None and "loss" in logs:
            logs["mask_density"] = round(self.strategy.masks().density(), 4)
        super().log(logs, start_time)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Any, Any]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            predictions, references = self.task.predict(model, inputs)
        return None, predictions, references

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """After an evaluation: save the best one's model, and end when patience is exhausted."""
        best = self.judge.best(self.state) == self.state.global_step
        self.control.should_save |= best
        self.control.should_training_stop |= self.judge.is_over(self.state)
        return best

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = lengths_of(self.train_dataset if train_dataset is None else train_dataset)
        return ByLength(self.get_total_train_batch_size(self.args), lengths, self.args.seed)

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
        if is_main():
            shutil.rmtree(drafts, ignore_errors=True)
        wait()
        self.args.output_dir = str(drafts)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors: a full disk of their own
            shutil.rmtree(drafts, ignore_errors=True)
            if ended_elsewhere(error):
                raise
            raise TrainingError(
                f"no checkpoint could be written at step {self.state.global_step}: {brief(error)}; the last whole one "
                f"is {checkpoints.last(final) or 'none'}: make room and run again with --resume"
            ) from error
        finally:
            self.args.output_dir = str(final)
        wait()
        if is_main():
            checkpoints.take(drafts, final)
            checkpoints.rotate(final, self.judge.best(self.state))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Keep the names that the model has now: renamed ones are not found again on resume (transformers #48805)."""
        model: Any = self.model
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained

    def restore(self, checkpoint: Path) -> None:
        """Put model and strategy where they were when a checkpoint was saved."""
        state = checkpoints.state_of(checkpoint)
        self._load_from_checkpoint(str(checkpoint))
        if self.strategy is not None:
            self.strategy.step(Progress(state.global_step, state.max_steps))


@contextmanager
def _as_given(model: Any) -> Iterator[None]:
    """Take off in the end what accelerate puts on a model: another Trainer would take it for prepared already.

    Nothing is cached in between, which the Trainer would leave so in the configuration for good.
    """
    marks = {"forward", "_original_forward", "_is_accelerate_prepared"} - vars(model).keys()
    cached = {name: value for name, value in vars(model.config).items() if name == "use_cache"}
    try:
        model.config.use_cache = False
        yield
    finally:
        for mark in marks & vars(model).keys():
            delattr(model, mark)
        del model.config.use_cache
        vars(model.config).update(cached)


def make_trainer(
    model: PreTrainedModel, task: Task, args: TrainingArguments, train: Dataset | None = None, **parts: Any
) -> PruningTrainer:
    """A trainer of `model` on `task`; `parts`: strategy, teacher, eval_dataset, patience, where there are any."""
    return PruningTrainer(model=model, args=args, train_dataset=train, task=task, **parts)
