"""Strategy: decides, while training, what survives. It produces a MaskSet and knows nothing of compaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from prune_core.errors import RecipeError
from prune_core.fields import Fields

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prune_core.masks import MaskSet
    from prune_core.structure import ModelStructure


class StrategyConfig(Fields):
    """Base of every strategy's configuration: frozen, no unknown field, every number finite, every field described."""


@dataclass(frozen=True)
class Progress:
    """Where a training is: `step` optimizer steps are done of `total`."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return min(self.step / self.total, 1.0) if self.total else 1.0


@dataclass(frozen=True)
class Context:
    """What `Strategy.prepare` is given. `calibration()` yields batches of model inputs (none without data)."""

    model: nn.Module
    structure: ModelStructure
    total_steps: int
    seed: int = 0
    calibration: Callable[[], Iterable[dict[str, Tensor]]] = tuple


class Strategy(ABC):
    """A pruning method. Constructed with its configuration, used once: prepare, steps, finish.

    Whatever must survive a restart is a parameter or buffer of the model; the rest follows from `Progress`.
    """

    fills: ClassVar[bool] = False
    """Whether a fine-tuning of the compact model, with its inner zeros filled, is part of the method."""

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    @property
    def target(self) -> float | None:
        """The density of the whole model that it lands on, once prepared; None (the default) where it has none."""
        return None

    @abstractmethod
    def prepare(self, context: Context) -> None:
        """Attach scores and masks to the model. StructureError, saying what was there, when nothing matched."""

    @abstractmethod
    def step(self, progress: Progress) -> None:
        """Called once after `prepare` or a resume, then after each optimizer step."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """What to add to the loss: a scalar, zero where there is none."""

    @abstractmethod
    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups of all trainable parameters, each once; scores at their own rate."""

    @abstractmethod
    def masks(self) -> MaskSet:
        """The decision now."""

    def settled(self, progress: Progress) -> bool:
        """Whether the masks have their last density from this step on: only then is one evaluation better than another.

        By default at the end alone.
        """
        return progress.step >= progress.total

    def unsharded(self) -> Sequence[str]:
        """Names of the model's submodules that hold all that is read or changed between two forwards.

        With `training.sharded` they stay whole, the same object in every forward; of the other weights the model has
        the shapes alone then, and the values before and after the training. RecipeError where that is not enough, as
        by default.
        """
        raise RecipeError(
            f"training.sharded: {type(self).__name__} does not say what of the model it needs whole while it trains: "
            "leave sharded out, or choose another strategy"
        )

    @abstractmethod
    def finish(self) -> MaskSet:
        """Bake the decision into the weights, leave plain layers behind, and return it."""
