"""Fine-pruning in anyone's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from prune_core.loading import structure_of
from prune_core.masks import MaskSet
from prune_core.plugins import import_target, load_plugins
from prune_core.strategy import Context, Progress, Strategy


class Pruning:
    """Drives a strategy beside a training loop.

        pruning = Pruning(model, "hybrid", total_steps=1000)
        optimizer = AdamW(pruning.parameter_groups(lr=3e-5, weight_decay=0.01))
        ...  # loss + pruning.penalty(); optimizer.step(); pruning.step()
        masks = pruning.finish()

    `strategy` is a Strategy, or the name of an installed one with its configuration's fields in `options`.
    `calibration()` yields batches of model inputs to strategies that look at the data before they start. Raises
    PluginError for an unknown name, StructureError when the model has nothing to prune.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        strategy: Strategy | str,
        *,
        total_steps: int,
        seed: int = 0,
        calibration: Callable[[], Iterable[dict[str, Tensor]]] = tuple,
        **options: Any,
    ) -> None:
        self.model = model
        self.strategy = make_strategy(strategy, options) if isinstance(strategy, str) else strategy
        self.total_steps = total_steps
        self.strategy.prepare(Context(model, structure_of(model), total_steps, seed, calibration))
        self._step = 0
        self.strategy.step(Progress(0, total_steps))

    def parameter_groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for any torch optimizer: all trainable parameters, each once."""
        return self.strategy.parameter_groups(lr, weight_decay)

    def penalty(self) -> Tensor:
        """What to add to the loss."""
        return self.strategy.penalty()

    def step(self) -> None:
        """To be called after each optimizer step."""
        self._step += 1
        self.strategy.step(Progress(self._step, self.total_steps))

    def resume(self, step: int) -> None:
        """Go on after `step` steps, once the model's state dict has been loaded."""
        self._step = step
        self.strategy.step(Progress(step, self.total_steps))

    def masks(self) -> MaskSet:
        """The decision now."""
        return self.strategy.masks()

    def finish(self) -> MaskSet:
        """Bake the decision into the weights and leave plain layers behind."""
        return self.strategy.finish()


def make_strategy(name: str, options: dict[str, Any]) -> Strategy:
    """An installed strategy of this name, configured; PluginError or pydantic's ValidationError."""
    spec = load_plugins().strategy(name)
    config = import_target(spec.config)(**options)
    strategy: Strategy = import_target(spec.target)(config)
    return strategy
