"""The layout of a model that no family covers, read off the names and shapes of its linears.

Only where there is one reading: in every layer of a list each linear must have exactly one role, all layers must be
alike, and no other parameter may belong to single heads or neurons. What is found travels with the compact model, as
data; that it is right is proven, as for any family, by `verify`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Stack
from prune_core.errors import StructureError, listed
from prune_core.structure import HEAD_COUNTS, discover, model_type

Linears = Mapping[str, nn.Linear]

_NAMES = {
    "query": ("q", "query", "wq"),
    "key": ("k", "key", "wk"),
    "value": ("v", "value", "wv"),
    "up": ("up", "wi_1", "w3"),
    "gate": ("gate", "wi_0", "w1"),
}
_AFFIXES = ("proj", "projection", "lin", "linear", "layer", "to", "w")
HEAD_SIZES = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "d_head", "d_kv")
_ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
_FEWEST = 4
"""Linears of a layer; lists of modules with fewer are heads or projections, which are not pruned."""


class _UnreadError(Exception):
    """Why a layer cannot be read."""


def found(model: nn.Module) -> Architecture:
    """The layout of a model. StructureError, naming a layer's linears and what was looked for, where it is unclear."""
    lists = dict(_lists_of_layers(model))
    if not lists:
        raise _refusal(model, "no list of layers with linears in it")
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stacks = tuple(
        Stack(path.removeprefix(prefix), *_common(model, path, layers), name=_name(path.removeprefix(prefix), lists))
        for path, layers in lists.items()
    )
    name = str(model_type(model))
    layout = Architecture(name, (name,), stacks)
    _check_once(model, layout, lists)
    return layout


def _lists_of_layers(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """Outermost lists all of whose modules hold several linears."""
    above: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in above)
        if inside or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if all(len(_linears(layer)) >= _FEWEST for layer in module):
            above.append(path)
            yield path, module


def _name(path: str, lists: Mapping[str, Any]) -> str:
    """What tells a stack from the others: the path of what holds it."""
    return "" if len(lists) == 1 else path.rpartition(".")[0] or path


def _common(model: nn.Module, path: str, layers: nn.ModuleList) -> tuple[dict[str, AttentionLayout], FeedForwardLayout]:
    """The one layout of all layers of a list."""
    config, layouts = _config(model, path), []
    for number, layer in enumerate(layers):
        try:
            layouts.append(_read(layer, config))
        except _UnreadError as error:
            raise _refusal(model, f"{path}.{number} with {_described(layer)}: {error}") from None
        if layouts[-1] != layouts[0]:
            raise _refusal(model, f"{path}.0 with {_described(layers[0])}, and unlike it {path}.{number}")
    return layouts[0]


def _config(model: nn.Module, path: str) -> Any:
    """The configuration of the innermost module above a list that has one: of models in models, the inner one's."""
    inner = None
    for end in [0, *(dot.start() for dot in re.finditer(r"\.", path))]:
        inner = getattr(model.get_submodule(path[:end]), "config", inner)
    return inner


def _read(layer: nn.Module, config: Any) -> tuple[dict[str, AttentionLayout], FeedForwardLayout]:
    linears = _linears(layer)
    attentions = [_attention(layer, core, linears, config) for core in _cores(linears)]
    taken = {name for unit in attentions for name in (unit.query, unit.key, unit.value, unit.output)}
    rest = {name: linear for name, linear in linears.items() if name not in taken}
    return _called(attentions), _feed_forward(layer, rest, tuple(f"{unit.core}." for unit in attentions))


def _linears(layer: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}


def _cores(linears: Linears) -> list[str]:
    """Modules that hold a query, a key and a value linear."""
    cores = list(dict.fromkeys(_parent(name) for name in linears if _is(name, "query")))
    if not cores:
        raise _UnreadError("no query, key and value by their names")
    if "" in cores:
        raise _UnreadError("query lies in the layer itself, in no module of the attention's own")
    return cores


def _attention(layer: nn.Module, core: str, linears: Linears, config: Any) -> AttentionLayout:
    inside = [name for name in linears if _parent(name) == core]
    query, key, value = (_one(inside, role, core) for role in ("query", "key", "value"))
    output = _output(core, [name for name in linears if name not in (query, key, value)])
    module = layer.get_submodule(core)
    size, source = _head_size(module, linears[query].out_features, config)
    widths = linears[query].out_features, linears[key].out_features
    if linears[value].out_features != widths[1] or linears[output].in_features != widths[0]:
        raise _UnreadError(f"{core}: the widths of query and output, or of key and value, do not agree")
    if any(width % size for width in widths) or widths[0] % widths[1]:
        raise _UnreadError(f"{core}: heads of {size} features do not divide {widths[0]} of query, {widths[1]} of key")
    counts = {width for total in widths for width in (total, total // size)}
    _nothing_else(module, {name.removeprefix(f"{core}.") for name in (query, key, value, output)}, counts - {size})
    return AttentionLayout(core, query, key, value, output, source, cross=False)


def _one(names: list[str], role: str, core: str) -> str:
    matching = [name for name in names if _is(name, role)]
    if len(matching) != 1:
        raise _UnreadError(f"{core}: one {role} was looked for, there {_are(matching)}")
    return matching[0]


def _output(core: str, others: list[str]) -> str:
    """The only other linear in the attention module, or else in the module around it."""
    around = core
    while around:
        there = [name for name in others if name.startswith(f"{around}.")]
        if len(there) == 1:
            return there[0]
        if there:
            raise _UnreadError(f"{around}: one output was looked for beside query, key and value, there {_are(there)}")
        around = _parent(around)
    raise _UnreadError(f"{core}: no output was found in it or around it")


def _head_size(core: nn.Module, width: int, config: Any) -> tuple[int, str | int]:
    """Features a head, and where they are said: in an attribute of the core, or nowhere but by the count of heads."""
    counts = [getattr(core, name, None) for name in HEAD_COUNTS] + [getattr(config, "num_attention_heads", None)]
    count = next((number for number in counts if isinstance(number, int) and number > 0), None)
    for name in HEAD_SIZES:
        size = getattr(core, name, None)
        if isinstance(size, int) and size > 0 and count in (None, width // size):
            return size, name
    if count is None or width % count:
        raise _UnreadError(f"no number of heads was found ({', '.join(HEAD_SIZES)}, {', '.join(HEAD_COUNTS)})")
    return width // count, width // count


def _called(attentions: list[AttentionLayout]) -> dict[str, AttentionLayout]:
    """Units by name: one of two must be the cross-attention, by its name."""
    if len(attentions) == 1:
        return {"attention": attentions[0]}
    cross = [re.search("cross|enc", unit.core, re.IGNORECASE) is not None for unit in attentions]
    if sorted(cross) != [False, True]:
        raise _UnreadError(f"self- and cross-attention cannot be told apart: {_are([u.core for u in attentions])}")
    own, other = sorted(attentions, key=lambda unit: cross[attentions.index(unit)])
    layout = {name: getattr(other, name) for name in ("core", "query", "key", "value", "output", "head_size")}
    return {"attention": own, "cross_attention": AttentionLayout(**layout, cross=True)}


def _feed_forward(layer: nn.Module, rest: Linears, cores: tuple[str, ...]) -> FeedForwardLayout:
    """Of two linears the first goes up and the second down; of three a gate is known by its name."""
    *ups, down = rest if rest else [""]
    if not 1 <= len(ups) <= 2:
        raise _UnreadError(
            f"up, down and at most a gate were looked for beside the attention, there {_are(list(rest))}"
        )
    neurons = rest[down].in_features
    if any((rest[up].in_features, rest[up].out_features) != (rest[down].out_features, neurons) for up in ups):
        raise _UnreadError(f"{', '.join(ups)} and {down} are no up and down of a feed-forward part by their shapes")
    up = ups[0] if len(ups) == 1 else _one(ups, "up", _parent(ups[0]))
    gate = None if len(ups) == 1 else _one(ups, "gate", _parent(ups[0]))
    hidden = rest[down].out_features
    attention = {name for name, _ in layer.named_parameters() if name.startswith(cores)}
    _nothing_else(layer, {*_linears(layer), *attention}, {neurons} - {hidden})
    return FeedForwardLayout(up=up, gate=gate, down=down, activation=_activation(layer, up))


def _activation(layer: nn.Module, up: str) -> str:
    """The only activation function beside up, or else around it."""
    around = up
    while around:
        around = _parent(around)
        there = _functions(layer.get_submodule(around))
        if len(there) == 1:
            return f"{around}.{there[0]}" if around else there[0]
        if there:
            raise _UnreadError(f"{around or 'the layer'}: one activation was looked for, there {_are(there)}")
    raise _UnreadError(f"no activation function was found beside {up} or around it")


def _functions(module: nn.Module) -> list[str]:
    children = [name for name, child in module.named_children() if type(child).__module__ in _ACTIVATIONS]
    return children + [name for name, value in vars(module).items() if "act" in name and callable(value)]


def _nothing_else(module: nn.Module, known: set[str], sizes: set[int]) -> None:
    """No parameter but those of `known` modules may have one of these sizes: it belonged to single heads or neurons."""
    for name, parameter in module.named_parameters():
        if not {name, _parent(name)} & known and sizes & set(parameter.shape):
            shape = list(parameter.shape)
            raise _UnreadError(
                f"{name} {shape} seems to belong to single heads or neurons, which would lose their part"
            )


def _check_once(model: nn.Module, layout: Architecture, lists: Mapping[str, nn.ModuleList]) -> None:
    """The paths without their prefix must name the same lists, each once."""
    expected = sum(
        len(layers) * (len(stack.attention) + 1) for stack, layers in zip(layout.stacks, lists.values(), strict=True)
    )
    keys = discover(model, [layout]).keys()
    if len(set(keys)) != expected or len(keys) != expected:
        raise _refusal(model, f"lists of layers whose paths end alike: {', '.join(lists)}")


def _is(name: str, role: str) -> bool:
    last = name.rpartition(".")[2].lower()
    bare = "_".join(part for part in last.split("_") if part not in _AFFIXES)
    return bool({last, bare} & set(_NAMES[role]))


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _are(names: list[str]) -> str:
    return f"are {listed(names)}" if names else "is none"


def _described(layer: nn.Module) -> str:
    shapes = [f"{name} {[linear.out_features, linear.in_features]}" for name, linear in _linears(layer).items()]
    return listed(shapes, 12)


def _refusal(model: nn.Module, what: str) -> StructureError:
    return StructureError(
        f"{type(model).__name__} (model type {model_type(model)!r}) is of no known family and cannot be read by names "
        f"and shapes: found {what}; looked for a list of equal layers with one query, key, value and output, and one "
        "up, down and perhaps gate linear in each: name them in the recipe's architecture.stacks, or in a plugin's "
        "prune_architectures"
    )
