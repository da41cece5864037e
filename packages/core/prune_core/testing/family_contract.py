"""What must hold of every family of models. Use it through `prune_core.testing.contract`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.folders.loading import structure_of
from prune_core.testing.capabilities import CAPABILITIES, Outcome, Sample, head_class, outcome
from prune_core.testing.head_classes import head_classes
from prune_core.testing.loop import loss_of
from prune_core.testing.tiny import tiny_inputs

LAYERS = 4


class FamilyContract(ABC):
    """Subclass it as `Test...` and implement `model`: all that can be done with a family is done exactly, or refused.

    For every class that transformers has for the configuration of the model, masked = compact = reloaded, with other
    heads and neurons in every layer and none in some.
    """

    families: ClassVar[tuple[str, ...]]
    """Names of the families, for `model`."""
    missing: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Of a family what cannot be done, by the name of a capability or a class, and a part of the reason given."""
    large: ClassVar[tuple[str, ...]] = ()
    """Families whose hidden states are so large that a difference counts relative to the largest value."""

    @abstractmethod
    def model(self, family: str, layers: int) -> PreTrainedModel:
        """A random model of so many layers, always the same one, of four heads, 64 neurons and 64 tokens at least.

        `prune_core.testing.tiny.random_model` makes one of which every weight and bias matters.
        """

    def inputs(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """What a model of any class takes, without labels; a decoder without its encoder reads something of one."""
        found = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
        structure = structure_of(model)
        if structure.absent and any(unit.cross for unit in structure.attention):
            size = (len(found["input_ids"]), 5, model.config.hidden_size)
            takes = inspect.signature(model.forward).parameters
            name = "encoder_hidden_states" if "encoder_hidden_states" in takes else "encoder_outputs"
            found[name] = torch.randn(size, generator=torch.Generator().manual_seed(0))
        return found

    def sample(self, family: str) -> Sample:
        return Sample(self.model(family, LAYERS), self.inputs, family in self.large)

    def outcome(self, family: str, capability: str) -> Outcome:
        """True, or why this cannot be done with this family; AssertionError where it goes wrong."""
        return outcome(CAPABILITIES[capability], self.sample(family))

    def class_outcome(self, family: str, cls: type[PreTrainedModel]) -> Outcome:
        """True, or why this class cannot be built from a tiny configuration, or cannot be compacted."""
        try:
            sample = self.sample(family).of(cls)
        except Exception as error:
            return f"not built: {type(error).__name__}: {error}"
        return outcome(head_class, sample)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "family" in metafunc.fixturenames:
            metafunc.parametrize("family", self.families)
        if "capability" in metafunc.fixturenames:
            metafunc.parametrize("capability", CAPABILITIES)

    def test_it_is_done_or_refused(self, family: str, capability: str) -> None:
        self._check(family, capability, self.outcome(family, capability))

    def test_every_class_is_masked_compact_and_reloaded(self, family: str) -> None:
        classes = head_classes(self.model(family, LAYERS).config)
        assert classes, "no Auto class of transformers knows a model of this configuration: register yours"
        for name, cls in classes.items():
            self._check(family, name, self.class_outcome(family, cls))

    def test_nothing_left_anywhere(self, family: str) -> None:
        sample = self.sample(family)
        masked, compaction = sample.compacted(dict.fromkeys(sample.structure.keys(), ()))
        sample.check_same(compaction, masked)
        assert compaction.density == 0, f"nothing is left, and the density is {compaction.density}"
        sizes = {name: tuple(value.shape) for name, value in compaction.model.state_dict().items()}
        none = [name for name, size in sizes.items() if 0 in size]
        assert not none, f"{none} are of size zero, which breaks exports: leave a stub"
        assert torch.isfinite(loss_of(compaction.model.train(), tiny_inputs(compaction.model)))

    def _check(self, family: str, what: str, found: Outcome) -> None:
        expected = self.missing.get(family, {}).get(what)
        if expected is None:
            assert found is True, f"{family}, {what}: {found}"
        else:
            assert found is not True, f"{family}, {what}: done, and was said to be missing ({expected})"
            assert expected in str(found), f"{family}, {what}: missing because {found}, not {expected}"
