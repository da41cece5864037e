"""ModelStructure: the attention and feed-forward units of one concrete model, by role."""

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Stack
from prune_core.errors import StructureError
from prune_core.granularity import Head, Neuron
from prune_core.linears import Linear, inputs, inside, linear, outputs, unadapted


class Role(StrEnum):
    """What a linear does in a transformer. QKV, KEY_VALUE and FFN_GATE_UP are several in one, fused."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    QKV = "qkv"
    KEY_VALUE = "key_value"
    ATTENTION_OUTPUT = "attention_output"
    FFN_UP = "ffn_up"
    FFN_GATE = "ffn_gate"
    FFN_GATE_UP = "ffn_gate_up"
    FFN_DOWN = "ffn_down"


Place = tuple[str, slice]
"""Where the weights of a role are: a module, and which of the lines that a head or neuron has in it."""

WHOLE = slice(None)


@dataclass(frozen=True)
class Attention:
    """One attention unit: module paths of its linears and of the module that holds the head counts.

    `heads` query heads share `key_value_heads` key and value heads, each of `head_size` features; with no head left
    (a stub) both counts are 0. One path for query, key and value is a fused linear: all queries come first in it, then
    all keys; with `by_head` those of one head; one path for key and value alone likewise. `turned`: its weights are
    [in, out]. `value_bias`: a parameter that is the bias of the values, where they have none of their own. `cross`:
    keys and values come from another stack. `adapter`: as in the family's layout.
    """

    key: str
    core: str
    query: str
    key_: str
    value: str
    output: str
    heads: int
    key_value_heads: int
    head_size: int
    by_head: bool = False
    turned: bool = False
    value_bias: str | None = None
    cross: bool = False
    adapter: str | None = None

    @property
    def count(self) -> int:
        """What it can lose one by one: key/value heads, each with its queries."""
        return self.key_value_heads

    @property
    def queries_per_key(self) -> int:
        """Query heads a key/value head (1 without grouped-query attention)."""
        return self.heads // self.key_value_heads if self.key_value_heads else 1

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one linear."""
        return self.query == self.value

    @property
    def paired(self) -> bool:
        """Whether key and value are one linear, and query another."""
        return self.key_ == self.value != self.query

    def linears(self) -> dict[str, Role]:
        """Module path -> role; empty for a stub."""
        if not self.heads:
            return {}
        value = Role.KEY_VALUE if self.paired else Role.VALUE
        separate = {self.query: Role.QUERY, self.key_: Role.KEY, self.value: value}
        return ({self.query: Role.QKV} if self.fused else separate) | {self.output: Role.ATTENTION_OUTPUT}

    def slice_of(self, module: str) -> Head:
        """Which rows (or columns) of one of its linears belong to one key/value head and its queries."""
        one, queries = self.head_size, self.head_size * self.queries_per_key
        whole = Head(queries if module in (self.query, self.output) else one, "rows")
        if module == self.output:
            whole = Head(queries, "columns")
        elif self.fused:
            whole = Head(queries + 2 * one, "rows") if self.by_head else Head(queries, "rows", (one, one))
        elif self.paired and module == self.value:
            whole = Head(2 * one, "rows") if self.by_head else Head(one, "rows", (one,))
        return whole.turned() if self.turned else whole

    def place(self, role: Role) -> Place:
        """Where the query, key, value or output of a head is: one behind the other in what it has of a fused linear."""
        if role is Role.ATTENTION_OUTPUT:
            return self.output, WHOLE
        one, module = self.head_size, {Role.QUERY: self.query, Role.KEY: self.key_, Role.VALUE: self.value}[role]
        parts = {Role.QUERY: slice(-2 * one), Role.KEY: slice(-2 * one, -one), Role.VALUE: slice(-one, None)}
        return module, parts[role] if self.fused or (self.paired and module == self.value) else WHOLE

    def deciding(self) -> tuple[Place, ...]:
        """Where a head has nothing left to do when no weight is left."""
        return self.place(Role.VALUE), self.place(Role.ATTENTION_OUTPUT)


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward unit: module paths of its linears and its activation; `size` neurons (0 for a stub).

    One path for gate and up is a fused linear: all gates come first in it. `turned`: its weights are [in, out].
    """

    key: str
    up: str
    gate: str | None
    down: str
    activation: str
    size: int
    turned: bool = False

    @property
    def count(self) -> int:
        """What it can lose one by one: neurons."""
        return self.size

    @property
    def fused(self) -> bool:
        """Whether gate and up are one linear."""
        return self.gate == self.up

    def linears(self) -> dict[str, Role]:
        """Module path -> role; empty for a stub."""
        if not self.size:
            return {}
        gate = {self.gate: Role.FFN_GATE} if self.gate else {}
        separate = {self.up: Role.FFN_UP, **gate}
        return ({self.up: Role.FFN_GATE_UP} if self.fused else separate) | {self.down: Role.FFN_DOWN}

    def slice_of(self, module: str) -> Neuron:
        """The row (of down: column) of one of its linears that belongs to a neuron; two where gate and up are one."""
        whole = Neuron(1, "rows", (1,) if self.fused else ())
        if module == self.down:
            whole = Neuron(1, "columns")
        return whole.turned() if self.turned else whole

    def place(self, role: Role) -> Place:
        """Where the gate, up or down of a neuron is."""
        if role is Role.FFN_DOWN:
            return self.down, WHOLE
        if role is Role.FFN_GATE and self.gate:
            return self.gate, slice(0, 1)
        return self.up, slice(-1, None)

    def deciding(self) -> tuple[Place, ...]:
        """Where a neuron has nothing left to do when no weight is left."""
        roles = (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN) if self.gate else (Role.FFN_UP, Role.FFN_DOWN)
        return tuple(self.place(role) for role in roles)


Unit = Attention | FeedForward


HEAD_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
"""Attributes that attention modules hold their number of heads in."""


def is_feed_forward(key: str) -> bool:
    """Whether a unit's key is that of a feed-forward part; all others are of attention, whatever a family calls it."""
    return key.endswith(".ffn")


@dataclass(frozen=True)
class ModelStructure:
    """The prunable units of a model. Keys such as "layer.3.attention" are stable across heads and prefixes.

    `owner` is the distribution whose plugin describes the family, where one does; where none does, `layout` is what the
    units were found by, which travels with the compact model. `absent`: what the keys begin with of stacks that the
    family has and this model lacks, as "encoder.layer." in a decoder of its own. `stacks`: all that the family has.
    """

    architecture: str
    units: tuple[Unit, ...]
    owner: str | None = None
    absent: tuple[str, ...] = ()
    stacks: tuple[Stack, ...] = ()
    layout: Architecture | None = None

    @property
    def attention(self) -> tuple[Attention, ...]:
        return tuple(unit for unit in self.units if isinstance(unit, Attention))

    @property
    def ffn(self) -> tuple[FeedForward, ...]:
        return tuple(unit for unit in self.units if isinstance(unit, FeedForward))

    def unit(self, key: str) -> Unit:
        """The unit of this key; StructureError when there is none."""
        for unit in self.units:
            if unit.key == key:
                return unit
        raise StructureError(f"no unit {key!r} in this {self.architecture}; it has {', '.join(self.keys())}")

    def stack_of(self, unit: Unit) -> Stack:
        """The family's description of the stack that a unit is in."""
        return next(stack for stack in self.stacks if unit.key.startswith(stack.prefix))

    def keys(self) -> list[str]:
        return [unit.key for unit in self.units]

    def sizes(self) -> dict[str, int]:
        """How many heads or neurons each unit has, by its key."""
        return {unit.key: unit.heads if isinstance(unit, Attention) else unit.size for unit in self.units}

    def linears(self) -> dict[str, Role]:
        """Module path -> role of every prunable linear."""
        return {name: role for unit in self.units for name, role in unit.linears().items()}

    def left_in(self, smaller: nn.Module) -> list[str]:
        """Those of its linears that compaction left in a model."""
        modules = dict(smaller.named_modules())
        return [name for name in self.linears() if isinstance(modules.get(name), Linear)]

    def without(self, patterns: Iterable[str]) -> "ModelStructure":
        """The structure less the units whose key matches a glob such as "layer.0.*"; StructureError where none does."""
        kept = self.units
        for pattern in patterns:
            if not any(fnmatchcase(unit.key, pattern) for unit in self.units):
                raise StructureError(f"{pattern!r} names no prunable unit; there are {', '.join(self.keys())}")
            kept = tuple(unit for unit in kept if not fnmatchcase(unit.key, pattern))
        return replace(self, units=kept)

    def under(self, masks: Container[str]) -> "ModelStructure":
        """The structure with those units alone of which a weight is under a mask."""
        masked = (unit for unit in self.units if any(f"{name}.weight" in masks for name in unit.linears()))
        return replace(self, units=tuple(masked))

    def weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Parameter name and weight of every prunable linear."""
        for name in self.linears():
            yield f"{name}.weight", linear(model, name).weight

    def size(self, model: nn.Module) -> int:
        """Number of prunable weights: no biases, embeddings, norms or task head."""
        return sum(weight.numel() for _, weight in self.weights(model))


def model_type(model: nn.Module) -> str | None:
    """The `model_type` of a model's configuration, by which its family is known."""
    return getattr(getattr(model, "config", None), "model_type", None)


def discover(model: nn.Module, architectures: Iterable[Architecture]) -> ModelStructure:
    """Find the prunable units of `model` by its family's layout.

    Raises StructureError, naming the linears that are there, when no family fits or a layout finds nothing.
    """
    known = list(architectures)
    misfits = []
    for architecture in known:
        if model_type(model) in architecture.model_types:
            try:
                found = _structure(model, architecture)
            except StructureError as error:
                misfits.append(f"not {architecture.name}: {error}")
            else:
                if found.units:
                    return found
                paths = ", ".join(stack.layers for stack in architecture.stacks)
                misfits.append(f"not {architecture.name}: there is no list of layers at {paths}")
    families = ", ".join(sorted({name for architecture in known for name in architecture.model_types}))
    raise StructureError("; ".join([_unknown(model), *(misfits or [f"known families: {families}"])]))


def _unknown(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    found = f"{len(names)} linears such as {', '.join(names[:3])}" if names else "no linear at all"
    return (
        f"{type(model).__name__} (model type {model_type(model)!r}) has no prunable unit that is known: found {found}"
    )


def _structure(model: nn.Module, architecture: Architecture) -> ModelStructure:
    """The units by one family's layout; StructureError where a layer is not as the layout says."""
    stacks = {stack.prefix: tuple(_units(model, stack)) for stack in architecture.stacks}
    units = tuple(unit for stack in stacks.values() for unit in stack)
    absent = tuple(key for key in stacks if not stacks[key])
    return ModelStructure(architecture.name, units, absent=absent, stacks=architecture.stacks)


def _units(model: nn.Module, stack: Stack) -> Iterator[Unit]:
    path = re.escape(stack.layers).replace(r"\*", r"(\d+)")
    layer = re.compile(rf"(?:.+\.)?{path}\.(\d+)")
    for name, module in model.named_modules():
        if match := layer.fullmatch(name):
            number = ".".join(match.groups())
            for unit, layout in stack.attention.items():
                yield _attention(module, layout, name, f"{stack.prefix}{number}.{unit}")
            yield _feed_forward(module, stack.ffn, name, f"{stack.prefix}{number}.ffn")


def _attention(layer: nn.Module, layout: AttentionLayout, path: str, key: str) -> Attention:
    head_size = _head_size(layer, layout)
    found = Attention(
        key=key,
        core=f"{path}.{layout.core}",
        query=f"{path}.{layout.query}",
        key_=f"{path}.{layout.key}",
        value=f"{path}.{layout.value}",
        output=f"{path}.{layout.output}",
        heads=0,
        key_value_heads=0,
        head_size=head_size,
        by_head=layout.by_head,
        value_bias=f"{path}.{layout.value_bias}" if layout.value_bias else None,
        cross=layout.cross,
        adapter=layout.adapter,
    )
    if not head_size:
        return found
    paths = (layout.query, layout.key, layout.value, layout.output)
    queries, keys, _, output = (linear(layer, name) for name in paths)
    if inputs(output) % head_size or (not found.fused and outputs(queries) != inputs(output)):
        raise StructureError(
            f"{found.query} gives {outputs(queries)} features and {found.output} reads {inputs(output)}: both should "
            f"be the same number of heads of {head_size} features"
        )
    heads, shared = inputs(output) // head_size, outputs(keys) // head_size
    shared = (shared - heads) // 2 if found.fused else shared // 2 if found.paired else shared
    if not shared or heads % shared:
        raise StructureError(
            f"{found.key_} gives {outputs(keys)} features, which is no number of heads of {head_size} features beside "
            f"the {heads} that {found.output} reads"
        )
    return replace(found, heads=heads, key_value_heads=shared, turned=isinstance(output, Conv1D))


def _head_size(layer: nn.Module, layout: AttentionLayout) -> int:
    """Features a head; 0 for a stub."""
    core, source = inside(layer, layout.core), layout.head_size
    if isinstance(source, str):
        return int(getattr(core, source, 0))
    return source if layout.query in dict(layer.named_modules()) else 0


def _feed_forward(layer: nn.Module, layout: FeedForwardLayout, path: str, key: str) -> FeedForward:
    up, down = unadapted(layer, layout.up), unadapted(layer, layout.down)
    size = outputs(up) if isinstance(up, Linear) else 0
    size = size // 2 if layout.gate == layout.up else size
    if isinstance(down, Linear) and inputs(down) != size:
        raise StructureError(
            f"{path}.{layout.up} gives {size} features and {path}.{layout.down} reads {inputs(down)}: both should be "
            "the number of neurons"
        )
    return FeedForward(
        key=key,
        up=f"{path}.{layout.up}",
        gate=f"{path}.{layout.gate}" if layout.gate else None,
        down=f"{path}.{layout.down}",
        activation=f"{path}.{layout.activation}",
        size=size,
        turned=isinstance(up, Conv1D),
    )
