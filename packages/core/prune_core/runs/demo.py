"""The embedded demonstration: scikit-learn's digits, and a small ViT trained on them from scratch, offline."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import (
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    set_seed,
)

from prune_core.files import replacing
from prune_core.tasks.config import ImageClassificationConfig
from prune_core.tasks.image_classification import ImageClassification
from prune_core.training import on_one_gpu
from prune_core.training.progress import progress_bar

logger = logging.getLogger(__name__)

SIDE = 8
"""Pixels of a digit's side."""

_BRIGHTEST = 16
_VALIDATION = 0.2
_MEAN, _DEVIATION = 0.3, 0.38
_TRAINING: dict[str, Any] = {
    "num_train_epochs": 8,
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-4,
    "adam_beta2": 0.98,
    "label_smoothing_factor": 0.1,
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "logging_steps": 50,
    "save_strategy": "no",
    "remove_unused_columns": False,
    "report_to": [],
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def prepare_demo(folder: Path, seed: int, **changes: Any) -> tuple[str, ImageClassificationConfig]:
    """Write the digits to folder/data and train a dense ViT to folder/dense, or what of it is not there yet.

    Returns the model's path and the task on the data. `changes` are other arguments for transformers' training.
    """
    data, dense = folder / "data", folder / "dense"
    if not data.is_dir():
        with replacing(data) as draft:
            write_digits(draft)
    task = ImageClassificationConfig(
        name="image-classification", train_file=data / "train.parquet", validation_file=data / "validation.parquet"
    )
    if not dense.is_dir():
        with replacing(dense) as draft:
            _train_dense(draft, task, seed, changes)
    return str(dense), task


def write_digits(folder: Path) -> None:
    """train.parquet and validation.parquet: 1437 and 360 grey images of 8x8 pixels, and their digit."""
    folder.mkdir(parents=True)
    digits = load_digits()
    shades = np.round(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
    parts = train_test_split(np.arange(len(shades)), test_size=_VALIDATION, stratify=digits.target, random_state=0)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    for name, rows in zip(("train", "validation"), parts, strict=True):
        columns = {"image": [Pictures.fromarray(shades[row]) for row in rows], "label": digits.target[rows]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{name}.parquet")


def _train_dense(folder: Path, section: ImageClassificationConfig, seed: int, changes: dict[str, Any]) -> None:
    """Train a ViT from scratch and save it, with its image processor, to `folder`."""
    logger.info("training the dense model of the demonstration from scratch")
    set_seed(seed)
    model = ViTForImageClassification(_config())
    model.config.save_pretrained(folder)
    ViTImageProcessorPil(
        do_resize=False, size={"height": SIDE, "width": SIDE}, image_mean=[_MEAN], image_std=[_DEVIATION]
    ).save_pretrained(folder)
    task = ImageClassification(section, str(folder))
    arguments = on_one_gpu(TrainingArguments(output_dir=str(folder), seed=seed, **(_TRAINING | changes)))
    trainer = Trainer(model=model, args=arguments, train_dataset=task.train(), data_collator=task.collate)
    trainer.remove_callback(PrinterCallback)
    with progress_bar(trainer, "dense"):
        trainer.train()
    model.save_pretrained(folder)


def _config() -> ViTConfig:
    """Hidden size 192, 4 layers of 6 heads, patches of 2x2 pixels."""
    names = [str(digit) for digit in range(10)]
    return ViTConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=768,
        image_size=SIDE,
        patch_size=2,
        num_channels=1,
        initializer_range=0.06,  # near 1 / sqrt(192): with ViT's 0.02, so few steps end two points lower
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
