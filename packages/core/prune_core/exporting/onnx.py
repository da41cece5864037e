"""ONNX, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prune_core.errors import ExportError, brief
from prune_core.exporting.formats import Exporter, Runtime
from prune_core.exporting.trace import Batch, Traced, symbols

OPSET = 18


class Onnx(Exporter):
    """One model.onnx; beyond 2 GB its weights lie in model.onnx.data."""

    name = "onnx"
    file = "model.onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")

    def write(self, traced: Traced, folder: Path) -> None:
        program = _translated(traced)
        _name_axes(program, traced)
        program.save(folder / self.file)

    def open(self, folder: Path) -> Runtime:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # threads that wait would keep the cores busy that something else needs: the model that it is compared with
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(folder / self.file, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(batch: Batch) -> dict[str, Tensor]:
            found = session.run(None, {name: value.numpy() for name, value in batch.items()})
            return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

        return run

    def versions(self) -> dict[str, str]:
        import onnx
        import onnxruntime

        return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": str(OPSET)}


def _translated(traced: Traced) -> Any:
    """The graph in ONNX's operators; ExportError where one of torch's has no translation."""
    try:
        # with gradients torch takes another attention, of other strides, than the one that was traced
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            return torch.onnx.export(
                traced.program,
                input_names=list(traced.inputs),
                output_names=list(traced.outputs),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of the translation's own kinds
        cause = error.__cause__ or error
        raise ExportError(f"onnx: the graph cannot be translated: {brief(Exception(str(cause)))}") from error


def _name_axes(program: Any, traced: Traced) -> None:
    """Let the sizes of inputs and outputs bear names such as batch, where torch numbers its symbols."""
    names: dict[str, str] = {}
    for name, sizes in symbols(traced.program).items():
        names |= {str(sizes[axis]): meaning for axis, meaning in traced.axes[name].items()}
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int):
                value.shape[axis] = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), str(size.value))
