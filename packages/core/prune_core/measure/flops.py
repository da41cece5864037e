"""FLOPs, by torch's own counter."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


def count_flops(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
    """Floating-point operations of one forward: two a multiply-add, matrix products only, attention included."""
    return flops_of(lambda: model(**inputs))


def flops_of(run: Callable[[], object]) -> int:
    """The same of whatever runs."""
    # the counter has no formula for the CPU's fused attention: the unfused one is the same sum; and in inference mode
    # it fails on computed weights, such as the convolution of wav2vec2's positions
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
