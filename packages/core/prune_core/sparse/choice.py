"""Which linears of a model compute faster without their zeros, measured one by one on its own inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune_core.errors import ModelError, brief
from prune_core.folders.loading import structure_of
from prune_core.measure import DENSE, LayerForm, paired_ratio, time_calls
from prune_core.measure.forwards import inputs_inside
from prune_core.sparse.forms import FORMS, Form, make_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def use_sparse_forms(model: PreTrainedModel, batch: Mapping[str, Tensor], rounds: int = 9) -> tuple[LayerForm, ...]:
    """Let each prunable linear of `model` compute without its zeros where that is faster for `batch`; in place.

    A form is taken where the whole interval of its gain is above 1; one that fails to run is not, with a warning. It
    holds for inference on this device: the parameters stay, so that the model saves and trains as before. ModelError
    where the model is in no linears.
    """
    left = ((name, model.get_submodule(name)) for name in structure_of(model).left_in(model))
    layers = {name: layer for name, layer in left if isinstance(layer, nn.Linear)}
    for layer in layers.values():
        make_dense(layer)
    seen = inputs_inside(model, layers, batch)
    if not seen:
        raise ModelError(f"{type(model).__name__} has no prunable Linear that this batch goes through")
    return tuple(_chosen(name, layers[name], given, rounds) for name, given in seen.items())


def _chosen(name: str, layer: nn.Linear, given: Tensor, rounds: int) -> LayerForm:
    density = float((layer.weight != 0).float().mean())
    best, make = LayerForm(name, DENSE, density, 1.0, 1.0, 1.0), None
    for form in FORMS:
        for option in form.options(layer) if form.device == given.device.type else ():
            try:
                tried = _tried(form, option, layer, given, rounds)
            except Exception as error:  # a kernel that fails for this size or on this device raises anything
                logger.warning("%s stays out of %s of %s, which fails: %s", name, form.kind, option, brief(error))
                continue
            if make is None or tried[0] > best.gain:
                best = LayerForm(name, f"{form.kind} of {option}", density, *tried)
                make = partial(form.make, layer, option)
    if make is None or best.low <= 1:
        return LayerForm(name, DENSE, density, best.gain, best.low, best.high)
    make()
    return best


def _tried(form: type[Form], option: int, layer: nn.Linear, given: Tensor, rounds: int) -> tuple[float, float, float]:
    """How many times faster a layer is in this form (median, low, high); it is dense before and after."""
    other = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    other.weight, other.bias = layer.weight, layer.bias
    form.make(other, option)
    calls: dict[str, Callable[[], object]] = {DENSE: partial(layer, given), form.kind: partial(other, given)}
    with torch.inference_mode():
        seconds = time_calls(calls, rounds, given.device)
    return paired_ratio(seconds[DENSE], seconds[form.kind])
