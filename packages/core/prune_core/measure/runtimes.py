"""What computes a model that is timed: torch, plain, compiled or as a CUDA graph, or what the model is turned into."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.bench.grid import Runtime
from prune_core.errors import RecipeError, brief
from prune_core.plugins import import_target

Batches = Sequence[Mapping[str, Tensor]]
Runs = Callable[..., Any]
"""Called with a batch by keywords it returns the outputs of a model."""
Opener = Callable[[PreTrainedModel, Batches, Path], AbstractContextManager[Runs]]
"""Opens a runtime for a model and the batches that it will be called with; a folder that was not there is made for its
files, one that is there holds those of the same model.
"""

DENSE = "dense"


@dataclass(frozen=True)
class LayerForm:
    """What a linear computes as now, and how many times faster that is than densely (95 % interval: low, high).

    Where no form was faster, or the whole model was not, it is dense, and the figures are those of the best that was
    tried, or 1 of none. None: it is two of four by itself, and was not measured.
    """

    layer: str
    form: str
    density: float
    gain: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Formed:
    """A model whose linears compute in these forms, called as it is."""

    model: PreTrainedModel
    forms: tuple[LayerForm, ...]

    def __call__(self, **batch: Any) -> Any:
        return self.model(**batch)


_TARGETS: dict[Runtime, str] = {
    "torch": "prune_core.measure.runtimes:plain",
    "compile": "prune_core.measure.runtimes:compiled",
    "cuda-graphs": "prune_core.measure.runtimes:cuda_graph",
    "sparse": "prune_core.sparse.runtime:without_zeros",
    "torch-export": "prune_core.exporting.runtimes:torch_export",
    "onnx": "prune_core.exporting.runtimes:onnx",
    "openvino": "prune_core.exporting.runtimes:openvino",
}
_WARM_UPS_OF_A_GRAPH = 3
_RECOMPILES = 64


def opener(runtime: Runtime) -> Opener:
    """What opens a runtime, whose packages are imported only here."""
    found: Opener = import_target(_TARGETS[runtime])
    return found


@contextmanager
def plain(model: PreTrainedModel, batches: Batches, folder: Path) -> Iterator[Runs]:
    """The model itself."""
    yield model


@contextmanager
def compiled(model: PreTrainedModel, batches: Batches, folder: Path) -> Iterator[Runs]:
    """torch.compile from a clean start, that never falls back to eager. RecipeError where it cannot compile."""
    torch.compiler.reset()
    limits: dict[str, Any] = {"recompile_limit": _RECOMPILES, "fail_on_recompile_limit_hit": True}
    try:
        with torch._dynamo.config.patch(**limits):
            yield torch.compile(model)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise RecipeError(f"compile: torch.compile failed: {brief(error)}") from error
    finally:
        torch.compiler.reset()


@contextmanager
def cuda_graph(model: PreTrainedModel, batches: Batches, folder: Path) -> Iterator[Runs]:
    """The forward pass of the first batch as a CUDA graph, which computes that whatever it is called with. RecipeError
    where it cannot be captured.
    """
    (batch, *_) = batches
    stream = torch.cuda.current_stream()
    try:
        with torch.inference_mode():
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UPS_OF_A_GRAPH):
                    model(**batch)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = model(**batch)
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own
        raise RecipeError(f"cuda-graphs: {type(model).__name__} cannot be captured: {brief(error)}") from error

    def replay(**_: Any) -> Any:
        graph.replay()
        return outputs

    yield replay
