"""FLOPs, by torch's own counter."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of what runs: two a multiply-add, matrix products only, attention included."""
    # the counter has no formula for the CPU's fused attention: the unfused one is the same sum; and in inference mode
    # it fails on computed weights, such as the convolution of wav2vec2's positions
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
