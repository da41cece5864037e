"""From the main memory to a device, without waiting for the device."""

import torch
from torch import Tensor


def outgoing(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor in the main memory, to be filled and `sent`: where a GPU itself can read it, if it goes there."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """An `outgoing` tensor on its device, once that has come to it; itself where it is there already."""
    return tensor.to(device, non_blocking=True)
