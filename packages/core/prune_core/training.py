"""Drive a Strategy through transformers' Trainer.

Everything that moves follows from the Trainer's global step, and everything learned is a parameter or buffer of the
model, so a resumed run ends as one that was never stopped.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint

from prune_core.errors import TrainingError
from prune_core.files import write_text
from prune_core.pretrained import brief
from prune_core.progress import progress_bar
from prune_core.strategy import Progress, Strategy

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.recipe import TrainingSection
    from prune_core.task import Task
    from prune_core.teacher import Teacher

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2


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
        super().__init__(data_collator=task.collate, compute_metrics=task.metrics, **kwargs)
        self.remove_callback(PrinterCallback)
        self.task = task
        self.strategy = strategy
        self.teacher = teacher
        if teacher is not None:
            teacher.to(self.args.device)
        if strategy is not None:
            self.add_callback(_StrategySteps(strategy))

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
            layer = _first_not_finite(model, self._prepare_inputs(inputs))
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
        states = {"output_hidden_states": True} if teacher is not None and teacher.wants_states else {}
        outputs = model(**inputs, **states)
        loss = outputs.loss if teacher is None else teacher.loss(outputs, inputs)
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
        return _ByLength(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler[int] | None:
        """The longest texts first, so that batches hold little padding; metrics do not depend on the order."""
        if not is_text(eval_dataset):
            return super()._get_eval_sampler(eval_dataset)
        lengths = lengths_of(eval_dataset)
        return _InOrder(sorted(range(len(lengths)), key=lambda index: -lengths[index]))

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
        _rotate(final)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Keep the names that the model has now: renamed ones are not found again on resume (transformers #48805)."""
        model: Any = self.model
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.save_pretrained


class _ByLength(LengthGroupedSampler):
    """Texts of like lengths together, in an order that follows from seed and epoch alone, so that it can be resumed."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return super().__iter__()  # type: ignore[no-any-return, no-untyped-call]


class _InOrder(Sampler[int]):
    """The examples in a given order."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class _StrategySteps(TrainerCallback):
    """Tells the strategy where the training is: at its begin (or resume) and after each optimizer step."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.strategy.step(Progress(state.global_step, state.max_steps))


class _Watch(TrainerCallback):
    """Appends every log line to metrics.jsonl."""

    def __init__(self, path: Path, stage: str, strategy: Strategy | None) -> None:
        self.path, self.stage, self.strategy = path, stage, strategy

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        line: dict[str, Any] = {"stage": self.stage, "step": state.global_step, **(logs or {})}
        if self.strategy is not None and logs is not None and "loss" in logs:
            line["mask_density"] = logs["mask_density"] = round(self.strategy.masks().density(), 4)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _first_not_finite(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """The layer whose output is the first, in the order of one more forward, to hold nan or infinity."""
    found: list[str] = []

    def watch(name: str, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else output if isinstance(output, tuple) else []
        if any(isinstance(tensor, Tensor) and not torch.isfinite(tensor).all() for tensor in tensors):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: watch(name, output))
        for name, module in model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return found[0] if found else None


def is_text(features: Dataset) -> bool:
    """Whether features are tokens, of one text each."""
    return "input_ids" in features.column_names


def lengths_of(features: Dataset) -> list[int]:
    """Number of tokens of each example."""
    return pc.list_value_length(features.with_format("arrow")[:]["input_ids"]).to_pylist()  # type: ignore[no-any-return]


def steps_of(section: TrainingSection, examples: int) -> int:
    """Optimizer steps that the Trainer will do: max_steps, or epochs of batches (the last one may be short)."""
    return section.max_steps or max(1, math.ceil(section.epochs * math.ceil(examples / section.batch_size)))


def arguments(section: TrainingSection, folder: Path, device: str, text: bool) -> TrainingArguments:
    """transformers' arguments for one training of a run."""
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=section.epochs,
        max_steps=section.max_steps or -1,
        per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=section.eval_batch_size,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        seed=section.seed,
        save_steps=section.save_steps,
        save_total_limit=None,
        logging_steps=section.logging_steps,
        logging_nan_inf_filter=False,
        train_sampling_strategy="group_by_length" if text else "random",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )
    return on_one_gpu(args)


def on_one_gpu(args: TrainingArguments) -> TrainingArguments:
    """The same for one GPU of a plain process, however many there are; each process of torchrun has its own anyway.

    The Trainer would wrap the model in DataParallel, whose replicas share the scores of the first GPU's masked layers.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args


def make_trainer(
    model: PreTrainedModel, task: Task, args: TrainingArguments, train: Dataset | None = None, **parts: Any
) -> PruningTrainer:
    """A trainer of `model` on `task`; `parts`: strategy, teacher, callbacks, where there are any."""
    return PruningTrainer(model=model, args=args, train_dataset=train, task=task, **parts)


def train(trainer: PruningTrainer, log: Path, stage: str) -> None:
    """Train, from the last whole checkpoint where there is one; every log line also goes to `log`."""
    folder = str(trainer.args.output_dir)
    last = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    done = _steps_done(last) if last else (0, 1)
    _forget(log, stage, done[0])
    if last:
        logger.info("resuming from %s", last)
    if last and done[0] >= done[1]:  # the Trainer would do one step more
        trainer._load_from_checkpoint(last)
        if trainer.strategy is not None:
            trainer.strategy.step(Progress(*done))
        return
    trainer.add_callback(_Watch(log, stage, trainer.strategy))
    with progress_bar(trainer, stage):
        trainer.train(resume_from_checkpoint=last)


def _steps_done(checkpoint: str) -> tuple[int, int]:
    """Steps that a checkpoint was saved after, and all steps of its training."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"], state["max_steps"]


def _forget(log: Path, stage: str, step: int) -> None:
    """Drop the log lines of steps that will be done again, and what a kill left of a line."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = [line for line in lines if line.endswith("}") and not _is_later(json.loads(line), stage, step)]
    if len(kept) < len(lines):
        write_text(log, "".join(f"{line}\n" for line in kept))


def _is_later(line: dict[str, Any], stage: str, step: int) -> bool:
    return bool(line["stage"] == stage and line["step"] > step)


def _rotate(folder: Path) -> None:
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for old in checkpoints[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
