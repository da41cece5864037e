"""What a format is: it writes a graph to files, and runs these files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from prune_core.errors import ExportError, foreign, nearest
from prune_core.exporting.trace import Batch, Traced
from prune_core.plugins import import_target

Runtime = Callable[[Batch], dict[str, Tensor]]
"""Runs an exported model: from a batch of its inputs to its outputs, by name."""

_FORMATS = {
    "torch-export": "prune_core.exporting.torch_export:TorchExport",
    "onnx": "prune_core.exporting.onnx:Onnx",
    "openvino": "prune_core.exporting.openvino:OpenVino",
}
FORMATS: tuple[str, ...] = tuple(_FORMATS)
"""Names of the formats that a model can be exported to."""


class Exporter(ABC):
    """One format and the runtime that it is for."""

    name: ClassVar[str]
    file: ClassVar[str]
    """The file that the runtime is given; others may lie beside it."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages to import, which the extra of prune-core of the format's name installs."""
    code_in_files: ClassVar[bool] = False
    """Whether reading such a file can run code that somebody put in it."""

    @abstractmethod
    def write(self, traced: Traced, folder: Path) -> None:
        """Write a graph in float32 to `folder`."""

    @abstractmethod
    def open(self, folder: Path) -> Runtime:
        """What runs the files in `folder`, on as many threads as torch has, in float32 unless they are quantized."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """What reads and writes the files, and in which version."""

    def load(self, folder: Path) -> Runtime:
        """As `open`; ExportError, on one line, for files that are damaged or of another format."""
        self.need()
        if not (folder / self.file).is_file():
            raise ExportError(f"{folder} holds no model in the format {self.name}: {self.file} is missing")
        with foreign(ExportError, f"{folder / self.file} cannot be read as {self.name}", passing=()):
            return self.open(folder)

    def need(self) -> None:
        """ExportError where a package that the format needs is not installed."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            names = ", ".join(missing)
            raise ExportError(
                f"format {self.name} needs {names}, found no such package: pip install prune-core[{self.name}]"
            )


def exporter(name: str) -> Exporter:
    """The exporter of a format; ExportError for an unknown one."""
    if name not in _FORMATS:
        raise ExportError(f"unknown format {name!r}; {nearest(name, FORMATS)}there are {', '.join(FORMATS)}")
    found: Exporter = import_target(_FORMATS[name])()
    return found
