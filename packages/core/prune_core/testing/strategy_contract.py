"""What every strategy must do. Use it through `prune_core.testing.contract`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from prune_core.compaction import compact
from prune_core.errors import StructureError
from prune_core.folders.loading import structure_of
from prune_core.masks import MaskSet
from prune_core.strategy import Context, Strategy
from prune_core.structure import ModelStructure
from prune_core.testing.loop import Loop, batch, logits
from prune_core.testing.tiny import tiny_model

ATOL = 2e-5
"""Largest difference between two orders of the same float32 sums, on the tiny models."""


class StrategyContract(ABC):
    """Subclass it as `Test...` and implement `strategy`."""

    families: ClassVar[tuple[str, ...]] = ("bert", "distilbert", "vit")
    """Which tiny models to test on; any of `prune_core.testing.tiny.FAMILIES`."""
    steps: ClassVar[int] = 10
    """Length of a training."""
    density: ClassVar[float | None] = None
    """What `strategy()` is to land on; None where it has no target density."""
    tolerance: ClassVar[float] = 0.02
    """How far from `density` it may land."""

    @abstractmethod
    def strategy(self) -> Strategy:
        """A fresh strategy, always of the same configuration."""

    def loop(self, family: str, **changes: Any) -> Loop:
        """A fresh strategy, prepared on a fresh tiny model."""
        return Loop(tiny_model(family, **changes), self.strategy(), self.steps)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "family" in metafunc.fixturenames:
            metafunc.parametrize("family", self.families)

    def test_refuses_a_model_without_prunable_unit(self, family: str) -> None:
        model = tiny_model(family)
        before = _layers(model)
        with pytest.raises(StructureError):
            self.strategy().prepare(Context(model, ModelStructure(family, ()), self.steps))
        assert _layers(model) == before, "prepare changed a model that it refused"

    def test_prepare_keeps_the_names_of_the_parameters(self, family: str) -> None:
        plain = tiny_model(family).state_dict().keys()
        missing = plain - self.loop(family).model.state_dict().keys()
        assert not missing, f"prepare renamed {sorted(missing)}: a checkpoint would no longer load as the plain model"

    def test_trains(self, family: str) -> None:
        loop = self.loop(family)
        before = [parameter.detach().clone() for parameter in loop.model.parameters()]
        penalty = loop.strategy.penalty()
        assert penalty.numel() == 1, f"the penalty is a scalar, found shape {list(penalty.shape)}"
        loop.train(2)
        assert torch.isfinite(loop.loss()), "the loss and its penalty must stay finite"
        after = list(loop.model.parameters())
        moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
        assert moved, "no parameter moved in two steps"

    def test_parameter_groups_hold_each_trainable_parameter_once(self, family: str) -> None:
        loop = self.loop(family)
        frozen = next(iter(loop.model.parameters()))
        frozen.requires_grad_(False)
        groups = loop.strategy.parameter_groups(lr=1e-3, weight_decay=0.1)
        found = Counter(id(parameter) for group in groups for parameter in group["params"])
        names = {id(parameter): name for name, parameter in loop.model.named_parameters()}
        strangers = [key for key in found if key not in names]
        assert not strangers, "a parameter group holds what is no parameter of the model: it would not be saved"
        twice = sorted(names[key] for key, count in found.items() if count > 1)
        assert not twice, f"{twice} are in several groups"
        trainable = {id(parameter) for parameter in loop.model.parameters() if parameter.requires_grad}
        missing = sorted(names[key] for key in trainable - found.keys())
        assert not missing, f"{missing} are trainable and in no group"
        assert id(frozen) not in found, f"{names[id(frozen)]} is frozen and yet in a group"

    def test_masks_fit_the_model(self, family: str) -> None:
        loop = self.loop(family).train()
        _check_fit(loop.strategy.masks(), tiny_model(family))

    def test_masks_survive_a_file(self, family: str, tmp_path: Path) -> None:
        masks = self.loop(family).train().strategy.masks()
        masks.save(tmp_path / "masks.safetensors")
        _check_same(masks, MaskSet.load(tmp_path / "masks.safetensors"))

    def test_masked_model_is_the_finished_one(self, family: str) -> None:
        loop = self.loop(family).train()
        masked = logits(loop.model)
        loop.strategy.finish()
        _check_close(masked, logits(loop.model), "the masked model and the finished one")

    def test_finish_leaves_a_plain_model(self, family: str) -> None:
        plain = tiny_model(family)
        loop = self.loop(family).train()
        announced = loop.strategy.masks()
        masks = loop.strategy.finish()
        _check_same(announced, masks)
        assert _layers(loop.model) == _layers(plain), "finish left other layers behind than prepare found"
        assert loop.model.state_dict().keys() == plain.state_dict().keys(), "finish left parameters or buffers behind"
        before = copy.deepcopy(loop.model.state_dict())
        masks.bake(loop.model)
        changed = [name for name, value in loop.model.state_dict().items() if not torch.equal(value, before[name])]
        assert not changed, f"finish returned masks that it did not bake into {changed}"

    def test_may_finish_early(self, family: str) -> None:
        loop = self.loop(family).train(self.steps // 2)
        _check_fit(loop.strategy.finish(), loop.model)

    def test_resumes_to_the_same_masks(self, family: str) -> None:
        whole = self.loop(family)
        for stop in (0, self.steps // 2, self.steps - 1, self.steps):
            whole.train(stop - whole.done)
            resumed = self.loop(family, seed=1).resume(whole.state())
            _check_same(whole.strategy.masks(), resumed.strategy.masks(), f"resumed after {stop} steps")

    def test_resumes_to_the_same_end(self, family: str) -> None:
        whole = self.loop(family).train(self.steps // 2)
        resumed = self.loop(family, seed=1).resume(whole.state())
        _check_same(whole.train().strategy.finish(), resumed.train().strategy.finish(), "at the end of a resumed run")
        assert torch.equal(logits(whole.model), logits(resumed.model)), "a resumed run ended with other weights"

    def test_same_seed_same_masks(self, family: str) -> None:
        def masks(noise: int) -> MaskSet:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(noise)
                return self.loop(family).train().strategy.finish()

        _check_same(masks(1), masks(2), "with one context.seed and two states of torch's own generator")

    def test_bfloat16(self, family: str) -> None:
        model = tiny_model(family).bfloat16()
        loop = Loop(model, self.strategy(), self.steps).train(3)
        assert torch.isfinite(loop.loss()), "the loss of a bfloat16 model must stay finite"
        loop.train().strategy.finish()
        kinds = {parameter.dtype for parameter in model.parameters()}
        assert kinds == {torch.bfloat16}, f"finish left a model of {kinds}"
        assert torch.isfinite(logits(model)).all(), "the finished bfloat16 model answers nan or infinity"

    def test_deepcopy(self, family: str) -> None:
        loop = self.loop(family).train(3)
        twin = copy.deepcopy(loop.model)
        assert torch.equal(logits(loop.model), logits(twin)), "a deep copy in mid-training computes something else"
        twin.train()
        twin(**batch(twin, 0)).loss.backward()
        leaked = [name for name, parameter in loop.model.named_parameters() if parameter.grad is not None]
        assert not leaked, f"training a deep copy put gradients on the original's {leaked}"

    def test_lands_on_the_density(self, family: str) -> None:
        if self.density is None:
            pytest.skip("this strategy has no target density")
        loop = self.loop(family, heads=8, layers=4).train()
        masks = loop.strategy.finish()
        reached = compact(loop.model, masks).density
        assert abs(reached - self.density) <= self.tolerance, f"density {reached:.3f} where {self.density} was asked"


def _layers(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def _check_fit(masks: MaskSet, model: PreTrainedModel) -> None:
    assert len(masks), "there is no mask"
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    prunable = {f"{name}.{kind}" for name in structure_of(model).linears() for kind in ("weight", "bias")}
    for name, mask in masks.items():
        assert name in prunable, f"{name} is masked and is no weight or bias of a prunable linear"
        assert mask.shape == shapes[name], f"the mask of {name} is for {mask.shape}, the parameter has {shapes[name]}"
        assert mask.values.dtype == torch.bool, f"the mask of {name} is {mask.values.dtype}, it must be bool"


def _check_same(one: MaskSet, other: MaskSet, when: str = "") -> None:
    assert one.keys() == other.keys(), f"masks of other parameters {when}: {one.keys() ^ other.keys()}"
    assert one.sparse == other.sparse, f"`sparse` changed {when}"
    different = [name for name in one if not torch.equal(one[name].expand(), other[name].expand())]
    assert not different, f"other masks {when}: {different}"


def _check_close(one: torch.Tensor, other: torch.Tensor, what: str) -> None:
    largest = (one - other).abs().max().item()
    assert largest <= ATOL, f"{what} differ by {largest:.2g}"
