"""What stands in for a unit with nothing left: no attention, or a bias alone. Never a zero-size tensor."""

from typing import Any

import torch
from torch import Tensor, nn


class BiasOnly(nn.Module):
    """A linear with nothing left but its bias (zeros without one); the leading dimensions of the input are kept.

    `weight` is a single zero that takes the name of the linear's weight in the folder: loading it without prune_core
    fails, for the shape is another, where a missing weight would have been left at random. It is of the dtype and on
    the device of that `weight`: T5 turns what it hands to a linear into the dtype of its weight.
    """

    weight: Tensor

    def __init__(self, bias: nn.Parameter | None, weight: Tensor, out_features: int) -> None:
        super().__init__()
        self.bias = bias
        self.register_buffer("weight", weight.detach().new_zeros(1))
        self.out_features = out_features

    def forward(self, input: Tensor) -> Tensor:
        shape = (*input.shape[:-1], self.out_features)
        zeros = torch.zeros(shape, dtype=input.dtype, device=input.device)
        return zeros if self.bias is None else zeros + self.bias


class Unused(nn.Identity):
    """Stands for a linear whose output nobody reads. Some families draw weight, a matrix, and bias when it is made."""

    weight: Tensor
    bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1, 1), persistent=False)
        self.register_buffer("bias", torch.zeros(1), persistent=False)


class NoAttention(nn.Module):
    """An attention module without heads: (output, None), where output is its own bias-only projection if it has one.

    Where the projection lives outside, that one is bias-only, and what this hands it does not matter. `layer_idx` is
    its place in a decoder's cache, where it has one: models read there how long the past is.
    """

    def __init__(
        self, name: str | None = None, projection: BiasOnly | None = None, layer_idx: int | None = None
    ) -> None:
        super().__init__()
        self.projection_name = name
        self.layer_idx = layer_idx
        if name and projection:
            self.add_module(name, projection)

    def forward(
        self, hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if past_key_values is not None and self.layer_idx is not None:
            remember_length(past_key_values, hidden_states, self.layer_idx)
        if self.projection_name is None:
            return hidden_states, None
        return self.get_submodule(self.projection_name)(hidden_states), None


def remember_length(cache: Any, hidden_states: Tensor, layer_idx: int) -> None:
    """Let the cache count these positions [batch, length, hidden], by keys and values of one head and one feature."""
    batch, length, _ = hidden_states.shape
    nothing = hidden_states.new_zeros(batch, 1, length, 1)
    getattr(cache, "self_attention_cache", cache).update(nothing, nothing, layer_idx)
