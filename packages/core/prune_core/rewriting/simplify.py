"""Simpler functions inside a model, blended in while it is fine-pruned: ReLU for GELU, an affine layer for LayerNorm.

MobileBERT (arXiv:2004.02984, section 4.4.2) shows what simpler functions gain in latency. Blending over many steps
lets the weights follow. In the end there are plain layers: ReLU is named in the model's configuration, NoNorm in what
loading reads there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from prune_core.compaction.stock import empty
from prune_core.errors import StructureError
from prune_core.folders.loading import record_no_norm
from prune_core.masks import MaskSet
from prune_core.rewriting.no_norm import NoNorm, layer_norms
from prune_core.strategy import Context, Progress, Strategy
from prune_core.structure import ModelStructure

RELU = "relu"
_FIELDS = ("hidden_act", "hidden_activation", "activation", "activation_function")
"""What families call the activation in their configuration."""

_MOMENTUM = 0.02
"""Weight of a batch in the running statistics."""


class Simplification(ABC):
    """One kind of function that becomes a simpler one. Used once: prepare, blend, finish."""

    @abstractmethod
    def prepare(self, model: Any, structure: ModelStructure) -> None:
        """Put the blends in; StructureError where the model has no such function."""

    @abstractmethod
    def modules(self) -> Sequence[str]:
        """Names of the modules that it changes in the meantime."""

    @abstractmethod
    def blend(self, amount: float) -> None:
        """How far it is: 0 for the model's own function, 1 for the simple one alone."""

    @abstractmethod
    def finish(self) -> None:
        """Leave plain layers behind, and a configuration that says so."""


class Blended(nn.Module):
    """(1 - amount) * before(x) + amount * relu(x). The amount follows from the progress: nothing is to be saved."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.amount = 0.0

    def forward(self, input: Tensor) -> Tensor:
        simple: Tensor = self.amount * F.relu(input)
        return simple if self.amount == 1 else (1 - self.amount) * self.before(input) + simple


class Relu(Simplification):
    """The activation that the configuration names becomes ReLU, wherever it is."""

    def prepare(self, model: Any, structure: ModelStructure) -> None:
        self.model = model
        for name in _followers(model, _field(model)):
            model.set_submodule(name, Blended(model.get_submodule(name)))

    def modules(self) -> Sequence[str]:
        return [name for name, module in self.model.named_modules() if isinstance(module, Blended)]

    def blend(self, amount: float) -> None:
        for name in self.modules():
            self.model.get_submodule(name).amount = amount

    def finish(self) -> None:
        for name in self.modules():
            self.model.set_submodule(name, ACT2FN[RELU])
        setattr(self.model.config, _field(self.model), RELU)


class BlendedNorm(nn.LayerNorm):
    """(1 - amount) * LayerNorm(x) + amount * (weight * (x - mean) / deviation + bias).

    `mean` and `deviation` are running means of those of the tokens, while training and until the blend is complete:
    from then on they are fixed. They are buffers, so that a resumed training goes on with them.
    """

    mean: Tensor
    deviation: Tensor
    batches: Tensor
    amount: float

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.amount < 1:
            self._watch(input.detach())
        if self.amount == 0:
            return super().forward(input)
        weight, bias = self.folded()
        simple = input * weight + bias
        return simple if self.amount == 1 else (1 - self.amount) * super().forward(input) + self.amount * simple

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias [features] of the affine layer that it ends as."""
        weight = self.weight / self.deviation
        shift = -weight * self.mean
        return weight, shift if self.bias is None else self.bias + shift

    def _watch(self, input: Tensor) -> None:
        variance, mean = torch.var_mean(input.float(), dim=-1, correction=0)
        rate = torch.where(self.batches == 0, 1.0, _MOMENTUM).to(self.mean)
        self.mean.lerp_(mean.mean().to(self.mean), rate)
        self.deviation.lerp_((variance + self.eps).sqrt().mean().to(self.deviation), rate)
        self.batches += 1


class NoNorms(Simplification):
    """The LayerNorms of the layers become affine layers with fixed statistics (NoNorm)."""

    def prepare(self, model: Any, structure: ModelStructure) -> None:
        self.model, self.structure = model, structure
        self.norms = dict(layer_norms(model, structure))
        if not self.norms:
            raise StructureError(f"simplify.no_norm: there is no LayerNorm in the layers of {type(model).__name__}")
        for norm in self.norms.values():
            norm.__class__ = BlendedNorm
            for name, start in (("mean", 0.0), ("deviation", 1.0), ("batches", 0)):
                norm.register_buffer(name, torch.tensor(start, device=norm.weight.device))

    def modules(self) -> Sequence[str]:
        return list(self.norms)

    def blend(self, amount: float) -> None:
        for norm in self.norms.values():
            norm.amount = amount  # type: ignore[assignment]

    def finish(self) -> None:
        for name, norm in self.norms.items():
            assert isinstance(norm, BlendedNorm)
            self.model.set_submodule(name, NoNorm(*norm.folded()))
        record_no_norm(self.model, self.structure)


class Simplified(Strategy):
    """A strategy, whose training also blends simpler functions into the model over the first `share` of its steps."""

    def __init__(self, strategy: Strategy, share: float, parts: Sequence[Simplification]) -> None:
        super().__init__(strategy.config)
        self.strategy, self.share, self.parts = strategy, share, parts
        self.fills = strategy.fills  # type: ignore[misc]

    @property
    def target(self) -> float | None:
        return self.strategy.target

    def prepare(self, context: Context) -> None:
        self.strategy.prepare(context)
        for part in self.parts:
            part.prepare(context.model, context.structure)

    def step(self, progress: Progress) -> None:
        self.strategy.step(progress)
        for part in self.parts:
            part.blend(min(progress.fraction / self.share, 1.0))

    def settled(self, progress: Progress) -> bool:
        return self.strategy.settled(progress) and progress.fraction >= self.share

    def penalty(self) -> Tensor:
        return self.strategy.penalty()

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return self.strategy.parameter_groups(lr, weight_decay)

    def masks(self) -> MaskSet:
        return self.strategy.masks()

    def unsharded(self) -> Sequence[str]:
        return [*self.strategy.unsharded(), *(name for part in self.parts for name in part.modules())]

    def finish(self) -> MaskSet:
        for part in self.parts:
            part.finish()
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


def _followers(model: Any, field: str) -> list[str]:
    """The activations that this field of the configuration makes ReLU, as loading will; StructureError for none."""
    simple, modules = type(ACT2FN[RELU]), dict(model.named_modules())
    built = empty(model, {field: RELU})
    named = [] if built is None else [name for name, module in built.named_modules() if type(module) is simple]
    found = [name for name in named if name in modules and type(modules[name]) is not simple]
    if not found:
        raise StructureError(
            f"simplify.relu: {field} {getattr(model.config, field)!r} in the configuration of {type(model).__name__} "
            "names no activation that could become ReLU; leave it out"
        )
    return found
