"""Imitation of the dense model: on logits (arXiv:1503.02531), numbers, embeddings, hidden states, attention maps."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prune_core.errors import RecipeError


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
    errors = [(mine - other).square().mean(dim=-1) for mine, other in zip(student, teacher, strict=True)]
    return torch.stack([_mean(error, mask) for error in errors]).mean()


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Squared error of attention maps [batch, queries, keys], summed over the keys, over the queries of `mask`.

    The maps are means over the heads, so that student and teacher may have other numbers of them.
    """
    errors = [(mine - other).square().sum(dim=-1) for mine, other in zip(student, teacher, strict=True)]
    return torch.stack([_mean(error, mask) for error in errors]).mean()


def layer_map(student: int, teacher: int, chosen: Mapping[int, int] | None = None) -> dict[int, int]:
    """Which layer of the teacher teaches each layer of the student, of so many layers; 0 is what enters the first.

    The same layer where both are as deep, else spread evenly from the first to the last. RecipeError where `chosen`
    names a layer that is not there.
    """
    if chosen is None:
        return {layer: (2 * layer * teacher + student) // (2 * student) for layer in range(student + 1)}
    for whose, last, layers in (("student", student, chosen.keys()), ("teacher", teacher, chosen.values())):
        wrong = [layer for layer in layers if not 0 <= layer <= last]
        if wrong:
            raise RecipeError(
                f"distillation.layers: the {whose} has no layer {wrong[0]}; its layers are 1 to {last}, and 0 is what "
                "enters the first"
            )
    return dict(chosen)


def _mean(errors: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of errors [batch, tokens] over the tokens of a mask of as many tokens, if there is one."""
    if mask is None or mask.numel() != errors.numel():
        return errors.mean()
    mask = mask.reshape(errors.shape)  # several choices an example lie in one batch
    return (errors * mask).sum() / mask.sum()
