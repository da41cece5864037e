"""Fill: heads that stay may hold zero blocks; give those small random values, so that fine-tuning can use them."""

import torch
from torch import nn

from prune_core.masks import MaskSet

SHARE = 0.01
"""Standard deviation of the new values, as a share of that of the layer's other weights."""
FRESH = 0.02
"""The same of a fresh layer's weights, which stands in where a layer has no others."""


@torch.no_grad()
def fill_zeros(model: nn.Module, masks: MaskSet, seed: int) -> int:
    """Give every masked weight of `model` a small random value; returns how many there were."""
    generator = torch.Generator().manual_seed(seed)
    filled = 0
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        empty = ~mask.expand()
        others = weight[~empty.to(weight.device)].float()
        scale = float(others.std()) if len(others) > 1 else FRESH
        noise = torch.randn(weight.shape, generator=generator) * scale * SHARE
        weight.copy_(torch.where(empty.to(weight.device), noise.to(weight), weight))
        filled += int(empty.sum())
    return filled
