"""The runtimes of exports, for those who measure: the model is exported to a folder, once, and run from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from prune_core.exporting.batches import made_up
from prune_core.exporting.folder import export_model
from prune_core.exporting.formats import Runtime, exporter
from prune_core.measure.runtimes import Batches, Runs


def torch_export(model: PreTrainedModel, batches: Batches, folder: Path) -> AbstractContextManager[Runs]:
    """torch.export's graph, run by torch. ExportError where the model has none."""
    return _exported("torch-export", model, folder)


def onnx(model: PreTrainedModel, batches: Batches, folder: Path) -> AbstractContextManager[Runs]:
    """ONNX Runtime. ExportError where it cannot run the model, or is not installed."""
    return _exported("onnx", model, folder)


def openvino(model: PreTrainedModel, batches: Batches, folder: Path) -> AbstractContextManager[Runs]:
    """OpenVINO. ExportError where it cannot run the model, or is not installed."""
    return _exported("openvino", model, folder)


@contextmanager
def _exported(format: str, model: PreTrainedModel, folder: Path) -> Iterator[Runs]:
    target = exporter(format)
    target.need()
    if not folder.exists():
        folder.mkdir(parents=True)
        export_model(model, folder, target, made_up(model))
    yield partial(_called, target.load(folder))


def _called(runtime: Runtime, **batch: Tensor) -> dict[str, Tensor]:
    return runtime(batch)
