"""Families of transformers, as data: where query, key, value, output and up, gate, down live in a layer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionLayout:
    """Paths below a layer. `core` holds the head counts; `head_size` names its attribute with the features a head."""

    core: str
    query: str
    key: str
    value: str
    output: str
    head_size: str


@dataclass(frozen=True)
class FeedForwardLayout:
    """Paths below a layer; `gate` where the activation is gated. `activation` is its path, or its function's."""

    up: str
    down: str
    activation: str
    gate: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A family: the `model_type`s it covers, the path of its list of layers, and the layout of one layer."""

    name: str
    model_types: tuple[str, ...]
    layer: str
    attention: AttentionLayout
    ffn: FeedForwardLayout
