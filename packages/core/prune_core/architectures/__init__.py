"""Families of transformers, as data: where query, key, value, output and up, gate, down live in a layer."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionLayout:
    """Paths below a layer. `core` holds the head counts; `head_size` names its attribute with the features a head, or
    is their number.

    One path for query, key and value is a fused linear: all queries come first in it, then all keys, then all values;
    with `by_head` those of one head and then those of the next. One path for key and value alone likewise.
    `value_bias`: a parameter in the place of the bias of the values. `cross`: keys and values come from another stack,
    so a decoder's cache of its own past is not read here. `adapter`: "module:Class" of an `Adapter`
    (prune_core.compaction.adapter) for what more than narrower linears a family needs.
    """

    core: str
    query: str
    key: str
    value: str
    output: str
    head_size: str | int
    by_head: bool = False
    value_bias: str | None = None
    cross: bool = False
    adapter: str | None = None


@dataclass(frozen=True)
class FeedForwardLayout:
    """Paths below a layer; `gate` where the activation is gated. `activation` is its path, or its function's.

    One path for gate and up is a fused linear: all gates (what the activation reads) come first in it.
    """

    up: str
    down: str
    activation: str
    gate: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Fields of the configuration, dotted below parts of it, that every layer of a stack takes its sizes from.

    `head_size`: the field that keeps a head's features when there are fewer heads; without one transformers derives
    them from the number of heads, which can then be no other. `layers`: how many there are, where a layer may go
    without changing what the others do; `per_layer` names lists with an entry for each. None: there is no such field.
    """

    heads: str = "num_attention_heads"
    key_value_heads: str | None = None
    head_size: str | None = None
    neurons: str | None = "intermediate_size"
    layers: str | None = "num_hidden_layers"
    per_layer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """One list of equal layers: its path below any prefix, and the layout of a layer.

    A `*` in the path is a number: where layers are grouped, the units of one are called "layer.GROUP.NUMBER.attention".
    `attention` maps the name of a unit ("attention", "cross_attention") to its layout. `name` tells the stacks of a
    family apart ("encoder", "decoder"); a family of one stack needs none. `sizes` is for compaction to one size of all
    layers, which is refused without it.
    """

    layers: str
    attention: Mapping[str, AttentionLayout]
    ffn: FeedForwardLayout
    name: str = ""
    sizes: Sizes | None = None

    @property
    def prefix(self) -> str:
        """What the keys of its units begin with: "layer.", or "decoder.layer."."""
        return f"{self.name}.layer." if self.name else "layer."


@dataclass(frozen=True)
class Architecture:
    """A family: the `model_type`s it covers, and its stacks. A model may lack one: a decoder without its encoder."""

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
