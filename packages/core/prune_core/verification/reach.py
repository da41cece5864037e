"""Outputs in which every unit has a part: to compare outputs says nothing of a unit that no input reaches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prune_core.compaction.layers import output_of
from prune_core.errors import ModelError, foreign
from prune_core.verification.verify import Expected, expect

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.structure import Unit


def expected_through(
    model: PreTrainedModel, units: Iterable[Unit], batches: Sequence[Mapping[str, Tensor]]
) -> Expected:
    """What to `expect` of these inputs. ModelError where the model does not run on them, or one of `units` does not."""
    names, left = ", ".join(batches[0]), {unit.key: output_of(unit) for unit in units if unit.count}
    with ExitStack() as hooks:
        for key, path in list(left.items()):
            hooks.enter_context(model.get_submodule(path).register_forward_pre_hook(_Strike(left, key)))
        hooks.enter_context(foreign(ModelError, f"{type(model).__name__} does not run on inputs of {names}"))
        found = expect(model, batches)
    if left:
        more = f" and {len(left) - 1} other units" if len(left) > 1 else ""
        raise ModelError(
            f"{type(model).__name__}: inputs of {names} do not reach {next(iter(left))}{more}, so what pruning makes "
            "of them cannot be proven: leave them out of the masks, or of the layout that a recipe's architecture names"
        )
    return found


class _Strike:
    """A hook that strikes a unit off the list of those that have not run."""

    def __init__(self, left: dict[str, str], key: str) -> None:
        self.left, self.key = left, key

    def __call__(self, module: nn.Module, given: tuple[object, ...]) -> None:
        self.left.pop(self.key, None)
