"""Simpler functions inside a model, blended in while it is fine-pruned: GELU, or whatever it has, becomes ReLU.

MobileBERT (arXiv:2004.02984, section 4.4.2) shows what simpler functions gain in latency. Blending over many steps lets
the weights follow; in the end there is a plain ReLU, named in the model's configuration: the folder loads as any other.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from prune_core.errors import StructureError
from prune_core.masks import MaskSet
from prune_core.strategy import Context, Progress, Strategy

RELU = "relu"
_FIELDS = ("hidden_act", "hidden_activation", "activation", "activation_function")
"""What families call the activation in their configuration."""


class Blended(nn.Module):
    """(1 - amount) * before(x) + amount * relu(x). The amount follows from the progress: nothing is to be saved."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.amount = 0.0

    def forward(self, input: Tensor) -> Tensor:
        simple: Tensor = self.amount * F.relu(input)
        return simple if self.amount == 1 else (1 - self.amount) * self.before(input) + simple


class WithRelu(Strategy):
    """A strategy, whose training also blends the model's activation into ReLU over the first `share` of its steps."""

    def __init__(self, strategy: Strategy, share: float) -> None:
        super().__init__(strategy.config)
        self.strategy, self.share = strategy, share
        self.fills = strategy.fills  # type: ignore[misc]

    def prepare(self, context: Context) -> None:
        self.strategy.prepare(context)
        self._model: Any = context.model
        kind = type(ACT2FN[getattr(self._model.config, _field(self._model))])
        for name in [name for name, module in self._model.named_modules() if type(module) is kind]:
            _put(self._model, name, Blended(self._model.get_submodule(name)))

    def step(self, progress: Progress) -> None:
        self.strategy.step(progress)
        for module in self._model.modules():
            if isinstance(module, Blended):
                module.amount = min(progress.fraction / self.share, 1.0)

    def penalty(self) -> Tensor:
        return self.strategy.penalty()

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return self.strategy.parameter_groups(lr, weight_decay)

    def masks(self) -> MaskSet:
        return self.strategy.masks()

    def finish(self) -> MaskSet:
        for name in [name for name, module in self._model.named_modules() if isinstance(module, Blended)]:
            _put(self._model, name, ACT2FN[RELU])
        setattr(self._model.config, _field(self._model), RELU)
        return self.strategy.finish()


def _field(model: Any) -> str:
    """The field of the model's configuration that names its activation; StructureError where there is none."""
    found = [name for name in _FIELDS if getattr(model.config, name, None) in ACT2FN]
    if not found:
        raise StructureError(
            f"simplify.relu: the configuration of {type(model).__name__} names no activation in any of "
            f"{', '.join(_FIELDS)}; leave it out"
        )
    return found[0]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
