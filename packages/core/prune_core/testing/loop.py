"""A training as short as can be, on the interface of Strategy alone: what the contract suites drive."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers import PreTrainedModel

from prune_core.folders.loading import structure_of
from prune_core.strategy import Context, Progress, Strategy
from prune_core.structure import ModelStructure
from prune_core.testing.tiny import tiny_inputs


@dataclass
class Loop:
    """`strategy` prepared on `model`, and an optimizer; `train` takes steps of the `total`."""

    model: PreTrainedModel
    strategy: Strategy
    total: int
    seed: int = 0
    done: int = 0
    structure: ModelStructure = field(init=False)
    optimizer: AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.structure = structure_of(self.model)
        self.strategy.prepare(
            Context(
                model=self.model,
                structure=self.structure,
                total_steps=self.total,
                seed=self.seed,
                calibration=lambda: [batch(self.model, step) for step in range(2)],
            )
        )
        self.optimizer = AdamW(self.strategy.parameter_groups(lr=1e-3, weight_decay=0.01))
        self.strategy.step(Progress(0, self.total))

    def train(self, steps: int | None = None) -> Loop:
        """Take so many steps, or all that are left; the model ends in evaluation mode."""
        self.model.train()
        for _ in range(self.total - self.done if steps is None else steps):
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            self.strategy.step(Progress(self.done, self.total))
        self.model.eval()
        return self

    def loss(self) -> Tensor:
        """Loss of the next batch, penalty included."""
        return loss_of(self.model, batch(self.model, self.done)) + self.strategy.penalty()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return copy.deepcopy(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}
        )

    def resume(self, state: dict[str, Any]) -> Loop:
        """Go on from `state` of another loop like this one."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        self.strategy.step(Progress(self.done, self.total))
        return self


def loss_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The loss of a model, or the mean square of what it answers where it has none."""
    answer = model(**inputs)
    loss: Tensor | None = answer.get("loss")
    if loss is None:
        loss = torch.stack([one.square().mean() for one in answer.values() if isinstance(one, Tensor)]).mean()
    return loss


def batch(model: PreTrainedModel, step: int) -> dict[str, Tensor]:
    """Batch number `step`, in the dtype of the model."""
    inputs = tiny_inputs(model, batch=8, seed=step)
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def everything(model: PreTrainedModel, **options: Any) -> list[Tensor]:
    """All tensors that `model` answers to a fixed batch without labels, in evaluation mode, hidden states included."""
    inputs = {name: value for name, value in batch(model, 10_000).items() if name != "labels"}
    return tensors(model, inputs, **options)


@torch.no_grad()
def tensors(model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """All tensors that `model` answers to these inputs, in evaluation mode, hidden states included."""
    answer = model.eval()(**inputs, output_hidden_states=True, **options).values()
    lists = [list(value) if isinstance(value, tuple) else [value] for value in answer]
    return [value for values in lists for value in values if isinstance(value, Tensor)]


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    """What `model` answers to a fixed batch, in evaluation mode."""
    model.eval()
    answer: Tensor = model(**batch(model, 10_000)).logits
    return answer
