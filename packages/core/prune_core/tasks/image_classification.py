"""One label for an image."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from datasets import Dataset, Image, Value
from PIL import Image as Pictures
from PIL import ImageOps
from pyarrow import ArrowException
from transformers import AutoImageProcessor

from prune_core.errors import DataError, ModelError, brief
from prune_core.tasks.classification import ClassificationTask
from prune_core.tasks.data import STRINGS, Table, Tables

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = ("image", "img", "file", "path")


class ImageClassification(ClassificationTask):
    """Classification of images: a column of images (as datasets stores them) or of paths relative to the data file.

    Images are read and processed when a batch is made, with the model's own image processor.
    """

    roles: ClassVar[tuple[str, ...]] = ("image", "label")
    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    head: ClassVar[str] = "ForImageClassification"
    inputs = ("pixel_values",)

    def find_inputs(self, tables: Tables) -> Tables:
        self.processor = _image_processor(self.source)
        self.mode = "L" if getattr(self.config, "num_channels", 3) == 1 else "RGB"
        column = _image_column(tables.present()[0], self.section.columns)
        return tables.map(lambda table: _with_images(table, column, self.label))

    def features(self, table: Table) -> Dataset:
        labels = [self.target.encode(value) for value in table.rows[self.label]]
        return table.rows.remove_columns(self.label).add_column("labels", labels)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        pictures = [_open(feature["image"], feature["row"]).convert(self.mode) for feature in features]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([feature["labels"] for feature in features])}


def _open(image: dict[str, Any], row: int) -> Pictures.Image:
    try:
        picture = Pictures.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])
        ImageOps.exif_transpose(picture, in_place=True)  # as the camera was held
        return picture
    except (OSError, ValueError, SyntaxError) as error:
        where = f" ({image['path']})" if image["path"] else ""
        raise DataError(f"the image in row {row}{where} cannot be read: {brief(error)}") from error


def _image_processor(model: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{model} holds no image processor that can be read: {brief(error)}") from error


def _image_column(table: Table, columns: dict[str, str]) -> str:
    if "image" in columns:
        return table.require("image", columns["image"])
    typed = [name for name, feature in table.features.items() if isinstance(feature, Image)]
    named = [name for name in _COLUMNS if name in table.columns]
    if len(typed) == 1 or named:
        return typed[0] if len(typed) == 1 else named[0]
    raise DataError(
        f"{table.source}: which column holds the images is unclear; found {', '.join(table.columns)}; "
        "name it with --column image=NAME"
    )


def _with_images(table: Table, column: str, label: str) -> Table:
    """Columns "image" (bytes and path, not decoded), the label, and "row", which names an image in messages."""
    table.require("image", column)
    table.refuse_nulls("image", column)
    rows = table.rows.select_columns([column, label])
    if isinstance(rows.features[column], Value) and rows.features[column].dtype in STRINGS:
        rows = rows.remove_columns(column).add_column(column, _absolute(table, column))
    try:
        rows = rows.cast_column(column, Image(decode=False))
    except (ValueError, TypeError, NotImplementedError, ArrowException) as error:
        raise DataError(
            f"{table.source}: column {column!r} holds {table.features[column]}; images or file paths were expected"
        ) from error
    rows = rows.rename_column(column, "image") if column != "image" else rows
    return replace(table, rows=rows.add_column("row", list(range(1, len(rows) + 1))))


def _absolute(table: Table, column: str) -> list[str]:
    paths = [(table.folder or Path()) / path for path in table.rows[column]]
    for row, path in enumerate(paths, start=1):
        if not path.is_file():
            raise DataError(f"{table.source}: no image at {path}, named in row {row} (column {column!r})")
    return [str(path) for path in paths]
