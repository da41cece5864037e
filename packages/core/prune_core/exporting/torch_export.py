"""torch.export: a graph that torch runs without the model's code, and AOTInductor or ExecuTorch take further."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from prune_core.errors import ExportError, foreign
from prune_core.exporting.formats import Exporter, Runtime
from prune_core.exporting.trace import Batch, Traced


class TorchExport(Exporter):
    """A .pt2 archive."""

    name = "torch-export"
    file = "model.pt2"
    code_in_files = True  # torch.export.load unpickles, and evaluates the expressions of sizes

    def write(self, traced: Traced, folder: Path) -> None:
        program = copy.copy(traced.program)
        program.example_inputs = None  # real inputs are nobody's business
        with foreign(ExportError, "torch-export: the graph cannot be saved"):
            torch.export.save(program, folder / self.file)

    def open(self, folder: Path) -> Runtime:
        module = torch.export.load(folder / self.file).module()

        def run(batch: Batch) -> dict[str, Tensor]:
            with torch.inference_mode():
                found: dict[str, Tensor] = module(**batch)
            return found

        return run

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}
