"""What an earlier run decided, as bounds on the masks of this one: parts that may not go, or may not come back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prune_core.errors import MaskError, RecipeError
from prune_core.granularity import Shape
from prune_core.kit.scores import GroupPlan
from prune_core.masks import MaskSet
from prune_core.structure import Attention, ModelStructure

MASKS = "masks.safetensors"


def earlier_masks(path: Path, field: str, model: nn.Module) -> MaskSet:
    """Masks of the run in a folder, or of a file of masks. MaskError, naming `field`, where they do not fit `model`."""
    try:
        masks = MaskSet.load(path / MASKS if path.is_dir() else path)
        masks.check(model)
    except MaskError as error:
        raise MaskError(f"strategy.{field}: {error}") from error
    return masks


def kept_heads(masks: MaskSet, structure: ModelStructure) -> dict[str, Tensor]:
    """Linear of an attention unit -> which of its weights [out, in] belong to heads that the masks keep.

    A head is kept while the masks leave it a row of value and a column of output.
    """
    return {name: weights for unit in structure.attention for name, weights in _kept(masks, unit).items()}


def open_weights(masks: MaskSet) -> dict[str, Tensor]:
    """Linear under a mask -> which of its weights [out, in] the masks keep."""
    return {name.removesuffix(".weight"): mask.expand() for name, mask in masks.items() if name.endswith(".weight")}


def touching(plan: GroupPlan, weights: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """Which scores of a group, of this shape, cover any of these weights; a linear that is not named has none."""
    found = torch.zeros(shape, dtype=torch.bool)
    for target in plan.targets:
        if target.module in weights:
            covered = target.granularity.reduce(weights[target.module].float()) > 0
            found |= target.orient(covered).reshape(shape)
    return found


def pruned_before(plan: GroupPlan, weights: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """Which scores of a group, of this shape, cover nothing but what is pruned already, where these weights are kept.

    RecipeError where one covers both: what was pruned would come back with the rest.
    """
    bound = [target for target in plan.targets if target.module in weights]
    kept = touching(plan, weights, shape) | (len(bound) < len(plan.targets))
    for target in bound:
        before = weights[target.module]
        back = target.granularity.expand(target.orient(kept), tuple(before.shape)) & ~before
        if back.any():
            raise RecipeError(
                f"strategy.within: {int(back.sum())} weights of {target.module} that the earlier run pruned share "
                f"scores of {target.granularity} with weights that it kept: take its strategy with the same sizes, or "
                "a finer one such as unstructured"
            )
    return ~kept


def _kept(masks: MaskSet, unit: Attention) -> dict[str, Tensor]:
    kept = torch.ones(unit.key_value_heads, dtype=torch.bool)
    for module, part in unit.deciding() if unit.heads else ():
        mask, whole = masks.get(f"{module}.weight"), unit.slice_of(module)
        if mask is not None:
            kept &= whole.gather(mask.alive(whole.axis))[:, part].any(dim=1)
    shapes = {name: masks[f"{name}.weight"].shape for name in unit.linears() if f"{name}.weight" in masks}
    return {name: unit.slice_of(name).expand(kept, shape) for name, shape in shapes.items()}
