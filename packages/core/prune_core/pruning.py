"""Fine-pruning in anyone's own loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from prune_core.errors import RecipeError, TrainingError
from prune_core.folders.loading import structure_of
from prune_core.masks import MaskSet
from prune_core.measure import dummy_inputs, fitted
from prune_core.plugins import import_target, load_plugins
from prune_core.recipe import Recipe
from prune_core.runs.configuring import strategy_config
from prune_core.strategy import Context, Progress, Strategy
from prune_core.verification.trial import needed, prove

logger = logging.getLogger(__name__)

_LENGTH = 8
"""Tokens of the random texts on which a layout is tried."""


class Pruning:
    """Drives a strategy beside a training loop.

        pruning = Pruning(model, "hybrid", total_steps=1000)
        optimizer = AdamW(pruning.parameter_groups(lr=3e-5, weight_decay=0.01))
        ...  # loss + pruning.penalty(); optimizer.step(); pruning.step()
        masks = pruning.finish()

    `strategy` is a Strategy, or the name of an installed one with its configuration's fields in `options`.
    `calibration()` yields batches of model inputs to strategies that look at the data before they start. Raises
    PluginError for an unknown name, RecipeError for a wrong field, StructureError when the model has nothing to prune,
    or when no family of ours covers it and a trial compaction of it, on the first such batch or a random one, is
    another function; after `finish`, which ends it, every method raises TrainingError.
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
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise RecipeError(
                f"total_steps: the number of optimizer steps, 1 or more, was expected, found {total_steps!r}"
            )
        if options and not isinstance(strategy, str):
            raise RecipeError(
                f"{', '.join(options)}: fields of a strategy that is given by its name, found a "
                f"{type(strategy).__name__}: set them in its configuration"
            )
        self.model = model
        self._finished = False
        self._strategy = make_strategy(strategy, options) if isinstance(strategy, str) else strategy
        self.total_steps = total_steps
        structure = structure_of(model)
        if needed(structure):
            offered = list(islice(calibration(), 1)) or [dummy_inputs(model, 2, fitted(model, _LENGTH))]
            prove(model, structure, offered[0])
        self._strategy.prepare(Context(model, structure, total_steps, seed, calibration))
        self._step = 0
        self._strategy.step(Progress(0, total_steps))

    @property
    def strategy(self) -> Strategy:
        """The strategy at work; TrainingError once it has finished, and left a plain model behind."""
        if self._finished:
            raise TrainingError("this pruning has finished and the model is plain again: make a new Pruning to go on")
        return self._strategy

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
        """Bake the decision into the weights and leave plain layers behind; a warning where steps are left."""
        if self._step < self.total_steps:
            logger.warning(
                "finish() after %d of %d steps: the masks land at once, and no weight has adapted to it",
                self._step,
                self.total_steps,
            )
        masks = self.strategy.finish()
        self._finished = True
        return masks


def make_strategy(name: str, options: dict[str, Any]) -> Strategy:
    """An installed strategy of this name, configured; PluginError where there is none, RecipeError for its fields."""
    plugins = load_plugins()
    recipe = Recipe.parse({"strategy": {**options, "name": name}}, name)
    config = strategy_config(recipe, plugins, name)
    strategy: Strategy = import_target(plugins.strategy(name).target)(config)
    return strategy
