"""Compact models in other runtimes: torch.export, ONNX Runtime, OpenVINO; proven there, timed there.

`export_folder` is what `prune export` does, `load_exported` runs what it wrote, `export_model` with an `exporter` takes
a model in memory; `supported` says which families go where.
"""

from prune_core.exporting.families import supported
from prune_core.exporting.folder import Exported, Wanted, export_folder, export_model, load_exported
from prune_core.exporting.formats import FORMATS, Exporter, Runtime, exporter

__all__ = [
    "FORMATS",
    "Exported",
    "Exporter",
    "Runtime",
    "Wanted",
    "export_folder",
    "export_model",
    "exporter",
    "load_exported",
    "supported",
]
