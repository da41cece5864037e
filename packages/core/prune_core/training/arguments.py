"""A recipe's training in transformers' own arguments, and what it needs of this machine."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, TrainingArguments

from prune_core.arithmetic import as_before
from prune_core.distributed.agreement import processes
from prune_core.errors import RecipeError

if TYPE_CHECKING:
    from prune_core.recipe import TrainingSection


def steps_of(section: TrainingSection, examples: int) -> int:
    """Optimizer steps that the Trainer will do: max_steps, or epochs of steps (the last one of each may be short)."""
    batches = math.ceil(math.ceil(examples / section.batch_size) / processes())
    steps = math.ceil(batches / section.gradient_accumulation)
    return section.max_steps or max(1, math.ceil(section.epochs * steps))


def check_training(section: TrainingSection, device: str, model: PreTrainedModel) -> None:
    """RecipeError for what this machine or this model cannot do."""
    if section.precision == "fp16" and device == "cpu":
        raise RecipeError("training.precision: fp16 needs a GPU, and this run is on the CPU; use bf16 or float32")
    if section.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise RecipeError(f"training.gradient_checkpointing: {type(model).__name__} does not support it; leave it out")
    if section.sharded:
        _check_sharded(section)
    for tracker in section.report_to:
        if find_spec(tracker) is None:
            raise RecipeError(f"training.report_to: {tracker} is not installed; pip install {tracker}, or leave it out")


def _check_sharded(section: TrainingSection) -> None:
    if processes() == 1:
        raise RecipeError(
            "training.sharded: there is one process, and nothing to divide the weights among: start several with "
            "torchrun --nproc_per_node N -m prune_cli run ..., or leave it out"
        )
    if section.precision == "fp16":
        raise RecipeError("training.sharded: fp16's scaled gradients are not divided soundly; use bf16 or float32")
    if section.compile:
        raise RecipeError("training.compile: a sharded training is not compiled; leave compile or sharded out")


@as_before()
def arguments(section: TrainingSection, folder: Path, device: str, text: bool) -> TrainingArguments:
    """transformers' arguments for one training of a run."""
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=section.epochs,
        max_steps=section.max_steps or -1,
        per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=section.eval_batch_size,
        gradient_accumulation_steps=section.gradient_accumulation,
        activation_checkpointing=section.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=section.precision == "bf16",
        fp16=section.precision == "fp16",
        torch_compile=section.compile,
        learning_rate=section.learning_rate,
        warmup_steps=section.warmup,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        seed=section.seed,
        eval_strategy="steps" if section.eval_steps else "no",
        eval_steps=section.eval_steps,
        save_steps=section.save_steps,
        save_total_limit=None,
        logging_steps=section.logging_steps,
        logging_nan_inf_filter=False,
        train_sampling_strategy="group_by_length" if text else "random",
        remove_unused_columns=False,
        report_to=list(section.report_to),
        run_name=f"{folder.parent.parent.name}-{folder.name}",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        accelerator_config={"non_blocking": device != "cpu"},  # batches come while the device computes
        ddp_find_unused_parameters=True,  # scores are not, once the masks are final
    )
    return on_one_gpu(args)


def evaluation_arguments(section: TrainingSection, folder: Path, device: str) -> TrainingArguments:
    """The same for an evaluation by itself: in float32, and told to nobody."""
    plain = type(section)(eval_batch_size=section.eval_batch_size, seed=section.seed)
    return arguments(plain, folder, device, text=False)


def on_one_gpu(args: TrainingArguments) -> TrainingArguments:
    """The same for one GPU of a plain process, however many there are; each process of torchrun has its own anyway.

    The Trainer would wrap the model in DataParallel, whose replicas share the scores of the first GPU's masked layers.
    """
    args._n_gpu = min(args.n_gpu, 1)
    return args
