"""The layout of one model as plain data: a recipe's `architecture` section, and what a compact model says of itself."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Stack
from prune_core.fields import Fields


def _dotted(path: str) -> str:
    if not re.fullmatch(r"[^\W_]\w*(\.([^\W_]\w*|\*))*", path):
        raise ValueError("names of modules with dots between were expected, none of which begins with an underscore")
    return path


Path = Annotated[str, AfterValidator(_dotted)]
"""Names of modules or attributes with dots between; an underscore in front would reach Python's internals."""


class AttentionSection(Fields):
    """An attention unit. Paths are those of modules below one layer; one for query, key and value is a fused linear."""

    query: Path = Field(description="Linear of the queries, such as self_attn.q_proj.")
    key: Path = Field(description="Linear of the keys.")
    value: Path = Field(description="Linear of the values.")
    output: Path = Field(description="Linear that takes all heads together.")
    core: Path = Field(description="Module that computes the attention and holds the number of heads.")
    head_size: Path | Annotated[int, Field(ge=1)] = Field(
        "head_dim", description="Attribute of core with the features a head, or their number."
    )
    by_head: bool = Field(
        False, description="In one linear for query, key and value those of a head lie together, then the next head's."
    )
    value_bias: Path | None = Field(None, description="Parameter in the place of the bias of the values, if any.")
    cross: bool = Field(False, description="Keys and values come from another stack, as those of an encoder.")


class FeedForwardSection(Fields):
    """The feed-forward unit. Paths are those of modules below one layer; one for gate and up is a fused linear."""

    up: Path = Field(description="Linear into the neurons, such as mlp.fc1.")
    down: Path = Field(description="Linear out of them.")
    gate: Path | None = Field(None, description="Linear whose activation multiplies that of up, where there is one.")
    activation: Path = Field(description="Module or attribute with the activation function.")


class StackSection(Fields):
    """A list of equal layers."""

    layers: Path = Field(description="Path of the list, below any prefix, such as encoder.layers.")
    name: Path | Literal[""] = Field("", description="What tells it from other stacks, such as decoder.")
    attention: dict[str, AttentionSection] = Field(
        min_length=1, description="Attention units by name: attention, and cross_attention where there is one."
    )
    ffn: FeedForwardSection = Field(description="The feed-forward unit.")


class ArchitectureSection(Fields):
    """Where a model keeps its linears, for one that no family covers and that cannot be read by names and shapes."""

    stacks: tuple[StackSection, ...] = Field((), description="Its lists of layers; by default they are found.")

    def layout(self, name: str, model_types: tuple[str, ...] = ()) -> Architecture:
        """The same as a family of this name."""
        return Architecture(name, model_types, tuple(map(_stack, self.stacks)))


def as_data(layout: Architecture) -> dict[str, Any]:
    """Plain data that `ArchitectureSection` reads; code (an adapter) and fields of its config are a plugin's own."""
    return {"stacks": [_data(stack) for stack in asdict(layout)["stacks"]]}


def _data(stack: dict[str, Any]) -> dict[str, Any]:
    data = {name: stack[name] for name in StackSection.model_fields}
    fields, units = AttentionSection.model_fields, stack["attention"].items()
    attention = {name: {field: unit[field] for field in fields} for name, unit in units}
    return data | {"attention": attention}


def _stack(section: StackSection) -> Stack:
    attention = {name: AttentionLayout(**unit.model_dump()) for name, unit in section.attention.items()}
    ffn = FeedForwardLayout(**section.ffn.model_dump())
    return Stack(layers=section.layers, name=section.name, attention=attention, ffn=ffn)
