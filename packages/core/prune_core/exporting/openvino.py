"""OpenVINO's intermediate representation, run on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from prune_core.errors import ExportError, foreign
from prune_core.exporting.formats import Exporter, Runtime
from prune_core.exporting.onnx import Onnx
from prune_core.exporting.trace import Batch, Traced


class OpenVino(Exporter):
    """model.xml, the graph, and model.bin, the weights.

    The graph comes by way of ONNX: of torch.export's own OpenVINO 2026.4 misreads HuBERT with padding, without a word.
    """

    name = "openvino"
    file = "model.xml"
    packages = ("openvino", "onnx", "onnxscript")

    def write(self, traced: Traced, folder: Path) -> None:
        import openvino

        with tempfile.TemporaryDirectory() as between:
            Onnx().write(traced, Path(between))
            with foreign(ExportError, "openvino: the graph cannot be translated"):
                model = openvino.convert_model(Path(between) / Onnx.file)
            openvino.save_model(model, folder / self.file, compress_to_fp16=False)

    def open(self, folder: Path) -> Runtime:
        import openvino

        # it computes in bfloat16 where the CPU can, unless told otherwise
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        compiled = openvino.Core().compile_model(folder / self.file, "CPU", options)
        names = [output.get_any_name() for output in compiled.outputs]

        def run(batch: Batch) -> dict[str, Tensor]:
            found = compiled({name: value.numpy() for name, value in batch.items()})
            return {name: torch.from_numpy(found[index]) for index, name in enumerate(names)}

        return run

    def versions(self) -> dict[str, str]:
        import openvino

        return {"openvino": openvino.__version__}
