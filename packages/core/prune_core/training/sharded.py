"""The Trainer of a model that does not fit one device: weights, gradients and optimizer states are divided (FSDP2)."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from prune_core.distributed.sharding import bring_back, shard, twin
from prune_core.training.trainer import PruningTrainer

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""State dicts of whole tensors; weights that never had a gradient have no state."""


class ShardedTrainer(PruningTrainer):
    """Trains a twin of its model, with the strategy's own modules in common, whose weights are divided.

    The model itself stays whole, in the main memory, where the strategy reads the shapes of its matrices. It has the
    weights of a checkpoint before the training and those of its twin afterwards, in all processes; checkpoints are
    those of a whole model.
    """

    sharded = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._whole: Any = self.model
        self._shared = self.strategy.unsharded() if self.strategy is not None else ()
        # The Trainer then leaves the gradients to the model, where it would make it a DDP one, and averages those of
        # what is not divided. Set here, not on the model: that would forbid checkpoints, which are our own.
        self.is_distributed_loading_by_transformers = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # no output is changed in place here
            result = super().train(*args, **kwargs)
        bring_back(self.model, self._whole)  # type: ignore[arg-type]
        self.model = self.model_wrapped = self._whole
        return result

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        for name in self._shared:
            for buffer in model.get_submodule(name).buffers():  # masks and statistics, as DDP sends them
                dist.broadcast(buffer, 0)
        return super().training_step(model, *args, **kwargs)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Not as a whole."""

    def _prepare_for_training(self, *args: Any) -> Any:
        divided = twin(self._whole, self._shared)
        shard(divided, self.args.device, self._shared)
        self.model = self.model_wrapped = divided
        return super()._prepare_for_training(*args)  # type: ignore[no-untyped-call]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The strategy's groups of the twin's parameters; fused kernels do not mix divided ones with others."""
        assert self.model is not None
        twins = {id(one): self.model.get_parameter(name) for name, one in self._whole.named_parameters()}
        groups = []
        for group in super()._parameter_groups():
            parameters = [twins[id(one)] for one in group["params"]]
            divided = [one for one in parameters if isinstance(one, DTensor)]
            others = [one for one in parameters if not isinstance(one, DTensor)]
            groups += [{**group, "params": part} for part in (divided, others) if part]
        return groups

    def _defer_fsdp_gradient_reduction(self) -> Any:
        """Of several batches of a step each is reduced at once: whole gradients would not fit."""
        return nullcontext()

    def _where(self, inputs: dict[str, Any]) -> str:
        return "with training.sharded no layer can be named, for one process cannot go on alone"

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        whole: Any = get_model_state_dict(self.model, options=WHOLE)  # type: ignore[arg-type]
        if self.args.should_save:
            super()._save(output_dir, whole)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        whole = get_optimizer_state_dict(self.model, self._divided_optimizer, options=WHOLE)  # type: ignore[arg-type]
        if self.args.should_save:
            torch.save(whole, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)  # type: ignore[union-attr]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        whole, schedule = (
            torch.load(Path(checkpoint) / name, map_location="cpu", mmap=True, weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        set_optimizer_state_dict(self.model, self._divided_optimizer, whole, options=WHOLE)  # type: ignore[arg-type]
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[union-attr]

    @property
    def _divided_optimizer(self) -> torch.optim.Optimizer:
        """torch's own, which accelerate has wrapped."""
        return getattr(self.optimizer, "optimizer", self.optimizer)  # type: ignore[return-value]
