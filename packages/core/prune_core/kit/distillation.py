"""Imitation of the dense model: on logits (arXiv:1503.02531), numbers, embeddings and hidden states."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), batch mean; logits [..., classes], every leading position counts alike."""
    size = student.shape[-1]
    log_student = F.log_softmax(student.reshape(-1, size) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.reshape(-1, size) / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def regression_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of predicted numbers."""
    return F.mse_loss(student, teacher)


def vector_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of |s - t|^2 / |t|^2 over vectors along the last axis; of unit vectors it is 2 - 2 cos(s, t)."""
    lengths = teacher.square().sum(dim=-1).clamp(min=torch.finfo(teacher.dtype).tiny)
    return ((student - teacher).square().sum(dim=-1) / lengths).mean()


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Mean squared error of hidden states [batch, tokens, features], layer by layer, over the tokens of `mask`."""
    losses = []
    for mine, other in zip(student, teacher, strict=True):
        error = (mine - other).square().mean(dim=-1)
        if mask is not None and mask.shape == error.shape:
            error = error * mask
            losses.append(error.sum() / mask.sum())
        else:
            losses.append(error.mean())
    return torch.stack(losses).mean()
