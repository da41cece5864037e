"""Linears that multiply their weight by a group's mask.

The class of the layer is changed rather than the layer wrapped or parametrized: names of parameters stay, so every
checkpoint of a model in training still loads as the plain model.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from prune_core.errors import StructureError
from prune_core.kit.scores import ScoreGroup, Target
from prune_core.structure import linear


class MaskedLinear(nn.Linear):
    """y = x (W * M)^T + b * m, where m is 0 for the rows of M that are empty. Made by `attach`."""

    _group: ScoreGroup
    _target: Target
    _mask_bias: bool

    def forward(self, input: Tensor) -> Tensor:
        mask = self._target.orient(self._group.current()).to(self.weight.dtype)
        weight = self._target.granularity.apply(self.weight, mask)
        bias: Tensor | None = self.bias
        if bias is not None and self._mask_bias:
            bias = bias * (self._target.granularity.rows(mask.detach(), tuple(self.weight.shape)) > 0)
        return F.linear(input, weight, bias)


def plain_linear(model: nn.Module, module: str) -> nn.Linear:
    """The linear of this name; StructureError where it is already masked, or another kind of layer."""
    layer = linear(model, module)
    if type(layer) is not nn.Linear:
        raise StructureError(f"{module} is a {type(layer).__name__}, only a plain Linear can be masked")
    return layer


def attach(model: nn.Module, group: ScoreGroup, target: Target, *, mask_bias: bool) -> None:
    """Make the target's linear masked by `group`. The model owns the group once, elsewhere."""
    layer = plain_linear(model, target.module)
    layer.__class__ = MaskedLinear
    object.__setattr__(layer, "_group", group)
    object.__setattr__(layer, "_target", target)
    object.__setattr__(layer, "_mask_bias", mask_bias and cuts_rows(target))


def detach(model: nn.Module, module: str) -> None:
    """Make a masked linear plain again; its weight is left as it is."""
    layer = model.get_submodule(module)
    if isinstance(layer, MaskedLinear):
        for name in ("_group", "_target", "_mask_bias"):
            object.__delattr__(layer, name)
        layer.__class__ = nn.Linear  # type: ignore[assignment]


def cuts_rows(target: Target) -> bool:
    """Whether the granularity can empty one row by itself; one of whole columns empties all rows at once."""
    return getattr(target.granularity, "axis", "rows") == "rows"
