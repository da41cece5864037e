"""What makes hard concrete gates random while training (arXiv:1712.01312)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prune_core.transfer import outgoing, sent


@torch.no_grad()
def draw(noise: Sequence[Tensor], seed: int, step: int) -> None:
    """Fill all of `noise` with log u - log(1 - u) of uniform u: the same on all ranks and after a resume.

    Drawn on the CPU, for GPUs of different kinds draw differently, and sent at once: no device is waited for.
    """
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + step) % 2**63)  # far apart for near seeds
    sizes, device = [one.numel() for one in noise], noise[0].device
    uniform = sent(outgoing((sum(sizes),), torch.float32, device).uniform_(generator=generator), device)
    for one, part in zip(noise, uniform.split(sizes), strict=True):
        torch.logit(part.view_as(one), 1e-6, out=one)
