"""What happens inside a model while a batch goes through it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

HALF = (torch.float16, torch.bfloat16)

_Mark = float | torch.cuda.Event


@contextmanager
def evaluating(*models: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode for a while."""
    were_training = [model.training for model in models]
    for model in models:
        model.train(False)
    try:
        yield
    finally:
        for model, training in zip(models, were_training, strict=True):
            model.train(training)


def inputs_inside(model: PreTrainedModel, layers: Iterable[str], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Module path -> what that layer gets of the batch, in evaluation mode; those that do not run are left out."""
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[name] = given[0].detach()

    with ExitStack() as hooks, torch.inference_mode(), evaluating(model):
        for name in layers:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(partial(keep, name)))
        model(**batch)
    return found


def seconds_inside(model: PreTrainedModel, layers: Iterable[str], batch: Mapping[str, Tensor]) -> dict[str, float]:
    """Module path -> seconds in that layer while the batch goes through the model, in evaluation mode, all its calls
    together; by CUDA events on a GPU. The path "" is the model itself.
    """
    marks: dict[str, list[_Mark]] = {name: [] for name in layers}

    def mark(name: str, layer: nn.Module, *_: object) -> None:
        marks[name].append(_now(next(layer.parameters()).device))

    with ExitStack() as hooks, torch.inference_mode(), evaluating(model):
        for name in marks:
            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(partial(mark, name)))
            hooks.enter_context(layer.register_forward_hook(partial(mark, name)))
        model(**batch)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return {name: sum(map(_between, one[::2], one[1::2])) for name, one in marks.items()}


def _now(device: torch.device) -> _Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(start: Any, end: Any) -> float:
    """Seconds from one mark to another."""
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1000)


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Weights of half precision compute in float32 for a while: those of a layer while it runs, all others throughout.

    So it takes the memory of the embeddings, the head and one layer, not that of another model. Layers are what lies in
    a ModuleList.
    """
    layers = {layer: tensors for layer in _layers(model) if (tensors := _halves(layer))}
    inside = {id(tensor) for tensors in layers.values() for tensor in tensors}
    with ExitStack() as stack:
        around = _Widening([tensor for tensor in _halves(model) if id(tensor) not in inside])
        around.enter()
        stack.callback(around.leave)
        for layer, tensors in layers.items():
            widening = _Widening(tensors)
            stack.enter_context(layer.register_forward_pre_hook(widening.enter))
            stack.enter_context(layer.register_forward_hook(widening.leave, always_call=True))
        yield


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _halves(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in HALF]


class _Widening:
    """Tensors that are in float32 from `enter` to `leave`, and then what they were."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.before: list[Tensor] = []

    def enter(self, *_: object) -> None:
        self.before = [tensor.data for tensor in self.tensors]
        with torch.inference_mode(False):  # a parameter takes no data that was made for inference only
            for tensor in self.tensors:
                tensor.data = tensor.data.float()

    def leave(self, *_: object) -> None:
        for tensor, data in zip(self.tensors, self.before, strict=False):  # none where another hook failed before
            tensor.data = data
