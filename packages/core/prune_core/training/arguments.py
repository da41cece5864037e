"""A recipe's training in transformers' own arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainingArguments

if TYPE_CHECKING:
    from prune_core.recipe import TrainingSection


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
