"""Which linears of a model compute faster without their zeros, each measured where it stands in the model."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune_core.errors import ModelError, brief
from prune_core.folders.loading import structure_of
from prune_core.measure import DENSE, LayerForm, Ratio, paired_ratio
from prune_core.measure.forwards import inputs_inside, seconds_inside
from prune_core.sparse.forms import FORMS, Form, make_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_Way = tuple[type[Form], int]
_Linears = Mapping[str, nn.Linear]
"""By their names in the model."""
_WHOLE = ""
"""The name of the model itself, as of a module in it."""
_ROUNDS_OF_SEVERAL = 3
"""Enough to find the fastest, which is timed once more."""


def use_sparse_forms(model: PreTrainedModel, batch: Mapping[str, Tensor], rounds: int = 9) -> tuple[LayerForm, ...]:
    """Let each prunable linear of `model` compute without its zeros where that is faster for `batch`; in place.

    Linears are timed while the whole model runs: by itself one finds in the caches what the rest of the model pushes
    out of them. Each form is tried in all of them at once, and the fastest of each once more, in `rounds` rounds: it is
    taken where the whole interval of that second gain is above 1, for of several that are tried one looks faster by
    chance. None is where the whole model was not faster with them: what follows a linear may pay for how its outputs
    lie in memory. One that fails to run is not taken, with a warning. It holds for inference on this device: the
    parameters stay, so that the model saves and trains as before. ModelError where the model is in no linears.
    """
    left = ((name, model.get_submodule(name)) for name in structure_of(model).left_in(model))
    layers = {name: layer for name, layer in left if isinstance(layer, nn.Linear)}
    for layer in layers.values():
        make_dense(layer)
    seen = inputs_inside(model, layers, batch)
    if not seen:
        raise ModelError(f"{type(model).__name__} has no prunable Linear that this batch goes through")
    layers = {name: layers[name] for name in seen}
    tried = _tried(model, batch, layers, seen, min(rounds, _ROUNDS_OF_SEVERAL))
    best = {name: max(ways, key=lambda way: ways[way].value) for name, ways in tried.items()}
    gains = {name: tried[name][way] for name, way in best.items()}
    twins = {name: _twin(layers[name], *way) for name, way in best.items() if gains[name].value > 1}
    gains |= _gains(model, batch, layers, twins, rounds)
    pays = bool(twins) and gains[_WHOLE].low > 1
    taken = {name: best[name] for name in twins if pays and gains[name].low > 1}
    for name, (form, option) in taken.items():
        form.make(layers[name], option)
    return tuple(_told(name, layer, taken.get(name), gains.get(name)) for name, layer in layers.items())


def _tried(
    model: PreTrainedModel, batch: Mapping[str, Tensor], layers: _Linears, seen: Mapping[str, Tensor], rounds: int
) -> dict[str, dict[_Way, Ratio]]:
    """The gain of every layer in each form that fits it and runs. Twins of one form at a time are in memory."""
    found: dict[str, dict[_Way, Ratio]] = defaultdict(dict)
    for way, names in _ways(layers, seen).items():
        twins = dict(_working(layers, seen, way, names))
        gains = _gains(model, batch, layers, twins, rounds)
        for name in twins:
            found[name][way] = gains[name]
    return found


def _ways(layers: _Linears, seen: Mapping[str, Tensor]) -> dict[_Way, list[str]]:
    """Which layers each form fits here."""
    ways: dict[_Way, list[str]] = defaultdict(list)
    for form in FORMS:
        for name, layer in layers.items():
            for option in form.options(layer) if form.device == seen[name].device.type else ():
                ways[form, option].append(name)
    return ways


def _working(
    layers: _Linears, seen: Mapping[str, Tensor], way: _Way, names: Sequence[str]
) -> Iterator[tuple[str, nn.Linear]]:
    """Twins that run; a warning of those that do not."""
    for name in names:
        try:
            with torch.inference_mode():
                twin = _twin(layers[name], *way)
                twin(seen[name])
        except Exception as error:  # a kernel that fails for this size or on this device raises anything
            logger.warning("%s stays out of %s, which fails: %s", name, _said(way), brief(error))
            continue
        yield name, twin


def _twin(layer: nn.Linear, form: type[Form], option: int) -> nn.Linear:
    """A layer of the same parameters in another form."""
    twin = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    twin.weight, twin.bias = layer.weight, layer.bias
    form.make(twin, option)
    return twin


def _gains(
    model: PreTrainedModel, batch: Mapping[str, Tensor], layers: _Linears, twins: _Linears, rounds: int
) -> dict[str, Ratio]:
    """How many times faster than its layer each twin is, and the whole model, in passes with all twins and without, by
    turns. An untimed pass of the same kind comes before each that is timed. Nothing where there are no twins.
    """
    if not twins:
        return {}
    names = (_WHOLE, *twins)
    dense: list[dict[str, float]] = []
    sparse: list[dict[str, float]] = []
    for index in range(rounds):
        for seconds, standing in [(dense, {}), (sparse, twins)][:: -1 if index % 2 else 1]:
            with _instead_of(layers, standing):
                seconds_inside(model, names, batch)
                seconds.append(seconds_inside(model, names, batch))
    return {name: paired_ratio([one[name] for one in dense], [one[name] for one in sparse]) for name in names}


@contextmanager
def _instead_of(layers: _Linears, twins: _Linears) -> Iterator[None]:
    """Layers compute as their twins do for a while."""
    own = {name: layers[name].__dict__.get("forward") for name in twins}  # accelerate gives layers one of their own
    for name, twin in twins.items():
        layers[name].forward = twin.forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, forward in own.items():
            if forward is None:
                del layers[name].forward
            else:
                layers[name].forward = forward  # type: ignore[method-assign]


def _told(name: str, layer: nn.Linear, way: _Way | None, gain: Ratio | None) -> LayerForm:
    density = float((layer.weight != 0).float().mean())
    return LayerForm(name, DENSE if way is None else _said(way), density, *(gain.figures if gain else (1.0, 1.0, 1.0)))


def _said(way: _Way) -> str:
    form, option = way
    return f"{form.kind} of {option}"
