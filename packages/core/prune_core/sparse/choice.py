"""Which linears of a model compute faster without their zeros, measured one by one on its own inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune_core.errors import ModelError, brief
from prune_core.folders.loading import structure_of
from prune_core.measure import DENSE, LayerForm, Ratio, paired_ratio, time_calls
from prune_core.measure.forwards import inputs_inside
from prune_core.sparse.forms import FORMS, Form, make_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_Way = tuple[type[Form], int]
_ROUNDS_OF_SEVERAL = 5
"""Enough to find the fastest, which is timed once more."""


def use_sparse_forms(model: PreTrainedModel, batch: Mapping[str, Tensor], rounds: int = 9) -> tuple[LayerForm, ...]:
    """Let each prunable linear of `model` compute without its zeros where that is faster for `batch`; in place.

    The forms of a linear are timed in turns, and the fastest once more in `rounds` rounds: it is taken where the whole
    interval of that second gain is above 1, for of several that are tried one looks faster by chance. One that fails to
    run is not, with a warning. It holds for inference on this device: the parameters stay, so that the model saves and
    trains as before. ModelError where the model is in no linears.
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
    others = dict(_working(name, layer, given))
    if not others:
        return LayerForm(name, DENSE, density, 1.0, 1.0, 1.0)
    found = _gains(layer, others, given, min(rounds, _ROUNDS_OF_SEVERAL))
    best = max(found, key=lambda way: found[way].value)
    gain = found[best]
    if gain.value > 1:
        gain = _gains(layer, {best: others[best]}, given, rounds)[best]
    if gain.low <= 1:
        return LayerForm(name, DENSE, density, *gain.figures)
    form, option = best
    form.make(layer, option)
    return LayerForm(name, f"{form.kind} of {option}", density, *gain.figures)


def _working(name: str, layer: nn.Linear, given: Tensor) -> Iterator[tuple[_Way, nn.Linear]]:
    """Twins of a layer in each form that fits it here and runs; a warning of those that do not run."""
    for form in FORMS:
        for option in form.options(layer) if form.device == given.device.type else ():
            twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            twin.weight, twin.bias = layer.weight, layer.bias
            try:
                with torch.inference_mode():
                    form.make(twin, option)
                    twin(given)
            except Exception as error:  # a kernel that fails for this size or on this device raises anything
                logger.warning("%s stays out of %s of %s, which fails: %s", name, form.kind, option, brief(error))
                continue
            yield (form, option), twin


def _gains(layer: nn.Linear, others: Mapping[_Way, nn.Linear], given: Tensor, rounds: int) -> dict[_Way, Ratio]:
    """How many times faster than the dense layer each of the others is, all of them timed in turns."""
    names = {way: f"{way[0].kind} of {way[1]}" for way in others}
    calls: dict[str, Callable[[], object]] = {names[way]: partial(other, given) for way, other in others.items()}
    with torch.inference_mode():
        seconds = time_calls({DENSE: partial(layer, given), **calls}, rounds, given.device)
    return {way: paired_ratio(seconds[DENSE], seconds[name]) for way, name in names.items()}
