"""One label for an image."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from datasets import Dataset, Image, Value
from PIL import Image as Pictures
from PIL import UnidentifiedImageError
from transformers import AutoImageProcessor

from prune_core.errors import DataError, ModelError
from prune_core.pretrained import brief
from prune_core.tasks.classification import ClassificationTask
from prune_core.tasks.data import Table, Tables

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_COLUMNS = ("image", "img", "file", "path")


class ImageClassification(ClassificationTask):
    """Classification of images: a column of images (as datasets stores them), or of file paths relative to the data file.

    Images are read and processed when a batch is made, with the model's own image processor.
    """

    roles: ClassVar[tuple[str, ...]] = ("image", "label")
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    head: ClassVar[str] = "ForImageClassification"
    inputs = ("pixel_values",)

    def prepare(self, tables: Tables) -> Tables:
        self.processor = _image_processor(self.source)
        self.mode = "L" if getattr(self.config, "num_channels", 3) == 1 else "RGB"
        self.image = _image_column(tables.present()[0], self.section.columns)
        parts = {name: table and _with_images(table, self.image) for name, table in vars(tables).items()}
        return Tables(**parts)

    def features(self, table: Table) -> Dataset:
        labels = [self.target.encode(value) for value in table.rows[self.label]]
        return Dataset.from_dict({"labels": labels})

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        pictures = [_open(feature["image"], self.mode) for feature in features]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([feature["labels"] for feature in features])}
