"""Anyone's own loop, on random labels, and what the tests look at in it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.kit.scores import ScoreGroup
from prune_core.masks import STATE, MaskSet
from prune_core.pruning import Pruning
from prune_core.testing.tiny import tiny_inputs, tiny_model

BLOCKS = {
    "unstructured": {},
    "block": {"attention_block": (8, 8), "ffn_block": (8, 16)},
    "hybrid": {"attention_block": (4, 8)},
    "structured": {},
}
"""Options that fit a tiny model, by strategy."""

STRATEGIES = tuple(BLOCKS)
BINARIZERS = ("topk", "threshold", "sigmoid_threshold", "magnitude", "hard_concrete")
ONE_UNIT = {"unstructured": 64 / 16384, "block": 512 / 16384, "hybrid": 512 / 16384, "structured": 512 / 16384}
"""Share of the prunable weights of `small_units()` that go at once at most: a neuron, a head, eight neurons."""


class Training:
    """`model` in fine-pruning; a loop of one's own, as the README shows it."""

    def __init__(self, model: PreTrainedModel, strategy: str, total: int, *, seed: int = 0, **options: Any) -> None:
        self.model, self.total, self.done = model, total, 0
        self.pruning = Pruning(model, strategy, total_steps=total, seed=seed, **{**BLOCKS[strategy], **options})
        self.optimizer = AdamW(self.pruning.parameter_groups(lr=1e-3, weight_decay=0.01))

    def run(self, steps: int | None = None) -> Training:
        """So many steps, or all that are left."""
        self.model.train()
        for _ in range(self.total - self.done if steps is None else steps):
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.pruning.step()
            self.done += 1
        self.model.eval()
        return self

    def loss(self) -> Tensor:
        loss: Tensor = self.model(**batch(self.model, self.done)).loss
        return loss + self.pruning.penalty()

    def state(self) -> dict[str, Any]:
        kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}
        return copy.deepcopy(kept)

    def resume(self, state: dict[str, Any]) -> Training:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        self.pruning.resume(self.done)
        return self


def batch(model: PreTrainedModel, step: int) -> dict[str, Tensor]:
    inputs = tiny_inputs(model, batch=4, seed=step)
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    answer: Tensor = model.eval()(**batch(model, 12345)).logits
    return answer


def many_units(family: str, **changes: Any) -> PreTrainedModel:
    """4 layers of 8 heads and 256 neurons: one head is 1 % of the prunable weights, one neuron 0.07 %."""
    return tiny_model(family, heads=8, layers=4, hidden_size=64, intermediate_size=256, **changes)


def small_units() -> PreTrainedModel:
    """2 layers of 8 heads of 4 features: 16384 prunable weights."""
    return tiny_model("bert", heads=8)


def groups_of(model: nn.Module) -> list[ScoreGroup]:
    return list(model.get_submodule(STATE).groups)


def stored_density(model: PreTrainedModel, masks: MaskSet) -> float:
    """Weights of the prunable linears that `compact` leaves stored, over those of the dense model; counted here."""
    names = structure_of(model).linears()
    total = sum(model.get_submodule(name).weight.numel() for name in names)
    smaller = compact(model, masks).model
    parameters = dict(smaller.named_parameters())
    left = [parameters[f"{name}.weight"] for name in names if f"{name}.weight" in parameters]
    return sum(int((weight != 0).sum()) if masks.sparse else weight.numel() for weight in left) / total


def masked_share(model: PreTrainedModel, masks: MaskSet) -> float:
    """Weights that survive the masks, over all prunable ones, in masks or not."""
    kept = total = 0
    for name in structure_of(model).linears():
        size = model.get_submodule(name).weight.numel()
        mask = masks.get(f"{name}.weight")
        total += size
        kept += size if mask is None else int(mask.expand().sum())
    return kept / total


def same(one: MaskSet, other: MaskSet) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].expand(), other[name].expand()) for name in one)


def stored_in(model: PreTrainedModel, masks: MaskSet, prefix: str) -> float:
    """Stored weights of the units whose keys begin so, over those of the dense model; counted in the compact one."""
    names = [name for unit in structure_of(model).units if unit.key.startswith(prefix) for name in unit.linears()]
    total = sum(model.get_submodule(name).weight.numel() for name in names)
    parameters = dict(compact(model, masks).model.named_parameters())
    left = [parameters[f"{name}.weight"] for name in names if f"{name}.weight" in parameters]
    return sum(int((weight != 0).sum()) if masks.sparse else weight.numel() for weight in left) / total
