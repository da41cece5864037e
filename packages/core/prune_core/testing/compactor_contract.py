"""What every compactor must do. Use it through `prune_core.testing.contract`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import PreTrainedModel

from prune_core.compactor import Compaction, Compactor
from prune_core.errors import MaskError
from prune_core.folders.loading import structure_of
from prune_core.granularity import Element
from prune_core.linears import linear
from prune_core.masks import Mask, MaskSet
from prune_core.structure import Attention
from prune_core.testing.loop import batch, logits
from prune_core.testing.sample_masks import KINDS, emptied_rows, random_masks, unit_masks
from prune_core.testing.tiny import tiny_model

ATOL = 1e-10
"""Largest difference of two orders of the same float64 sums: models are compacted in float64, where errors show."""


class CompactorContract(ABC):
    """Subclass it as `Test...` and implement `compactor`."""

    families: ClassVar[tuple[str, ...]] = ("bert", "distilbert", "vit", "bart", "opt", "qwen2")
    """Which tiny models to test on; any of `prune_core.testing.tiny.FAMILIES`."""
    reloads: ClassVar[bool] = True
    """Whether `save_pretrained` and `from_pretrained` give the compact model back."""

    @abstractmethod
    def compactor(self) -> Compactor:
        """A compactor."""

    def compact(self, model: PreTrainedModel, masks: MaskSet, *, inplace: bool = False) -> Compaction:
        return self.compactor().compact(model, masks, structure_of(model), inplace=inplace)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "family" in metafunc.fixturenames:
            metafunc.parametrize("family", self.families)
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", [kind for kind in KINDS if kind in self.compactor().accepts])

    @pytest.mark.parametrize("sparse", [False, True])
    def test_computes_what_the_masked_model_does(self, family: str, kind: str, sparse: bool) -> None:
        model = _model(family)
        masks = random_masks(model, kind, sparse=sparse)
        _check_same(self.compact(model, masks).model, _baked(model, masks))

    @pytest.mark.parametrize("heads", [0, 1])
    @pytest.mark.parametrize("neurons", [0, 1])
    def test_units_with_little_or_nothing_left(self, family: str, heads: int, neurons: int) -> None:
        if not self.compactor().accepts >= {"head", "neuron"}:
            pytest.skip("this compactor does not remove heads and neurons")
        model = _model(family)
        masks = unit_masks(model, lambda unit: range(heads if isinstance(unit, Attention) else neurons))
        compaction = self.compact(model, masks)
        _check_same(compaction.model, _baked(model, masks))
        sizes = [tuple(parameter.shape) for parameter in compaction.model.parameters()]
        assert all(0 not in size for size in sizes), "a tensor of size zero breaks exports: leave a stub instead"

    @pytest.mark.parametrize("role", ["query", "key", "value", "output"])
    @pytest.mark.parametrize("biases", [False, True])
    def test_heads_of_which_one_matrix_is_empty(self, family: str, role: str, biases: bool) -> None:
        """No query or no key still means an average of the values; no value still leaves a bias, a constant."""
        if "element" not in self.compactor().accepts:
            pytest.skip("this compactor does not accept element masks")
        model = _model(family)
        masks = emptied_rows(model, role, biases=biases)
        _check_same(self.compact(model, masks).model, _baked(model, masks))

    def test_removes_masked_heads_and_neurons(self, family: str) -> None:
        if not self.compactor().accepts >= {"head", "neuron"}:
            pytest.skip("this compactor does not remove heads and neurons")
        model = _model(family)
        compaction = self.compact(model, unit_masks(model, lambda unit: (1,)))
        kept = {report.key: report.kept for report in compaction.units}
        assert kept == dict.fromkeys(structure_of(model).keys(), (1,)), (
            f"head and neuron 1 stay of each unit, not {kept}"
        )
        stored = structure_of(compaction.model).size(compaction.model) / structure_of(model).size(model)
        assert compaction.density == pytest.approx(stored), "density is the stored share of the prunable weights"

    def test_keeps_everything_without_masks(self, family: str) -> None:
        model = _model(family)
        compaction = self.compact(model, MaskSet({}))
        assert compaction.density == 1, f"nothing was masked, and the density is {compaction.density}"
        assert all(len(report.kept) == report.total for report in compaction.units), "nothing was masked, units shrank"
        _check_same(compaction.model, model)

    def test_leaves_the_model_as_it_was(self, family: str, kind: str) -> None:
        model = _model(family)
        before = copy.deepcopy(model.state_dict())
        masks = random_masks(model, kind)
        self.compact(model, masks)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), "compact changed the model itself"
        assert self.compact(model, masks, inplace=True).model is model, "with inplace=True it is the model itself"

    def test_says_which_zeros_remain(self, family: str, kind: str) -> None:
        model = _model(family)
        compaction = self.compact(model, random_masks(model, kind, sparse=True))
        before = copy.deepcopy(compaction.model.state_dict())
        compaction.masks.bake(compaction.model)
        after = compaction.model.state_dict()
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert not changed, f"the masks of what remains say zero where {changed} are not"
        size = structure_of(model).size(model)
        assert compaction.density == pytest.approx(_nonzero(compaction) / size), (
            "density counts the weights that are stored"
        )

    def test_refuses_masks_of_another_model(self, family: str) -> None:
        model = _model(family)
        name = next(iter(structure_of(model).linears()))
        wrong = torch.ones(2, 2, dtype=torch.bool)
        for stranger in ("no.such.weight", f"{name}.weight"):
            with pytest.raises(MaskError):
                self.compact(model, MaskSet({stranger: Mask(Element(), wrong, (2, 2))}))

    def test_compact_model_trains(self, family: str, kind: str) -> None:
        model = _model(family)
        smaller = self.compact(model, random_masks(model, kind)).model.train()
        loss = smaller(**batch(smaller, 0)).loss
        loss.backward()
        names = structure_of(smaller).linears()
        without = [name for name in names if linear(smaller, name).weight.grad is None]
        assert not without, f"no gradient reaches {without} of the compact model"

    def test_reloads(self, family: str, kind: str, tmp_path: Path) -> None:
        if not self.reloads:
            pytest.skip("this compactor's models are not reloaded by from_pretrained")
        model = _model(family)
        smaller = self.compact(model, random_masks(model, kind)).model
        smaller.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path, dtype=torch.float64)
        assert torch.equal(logits(smaller), logits(again)), "the reloaded model is not the compact one, bit by bit"


def _model(family: str) -> PreTrainedModel:
    return tiny_model(family).double()


def _baked(model: PreTrainedModel, masks: MaskSet) -> PreTrainedModel:
    twin = copy.deepcopy(model)
    masks.bake(twin)
    return twin


def _check_same(one: PreTrainedModel, other: PreTrainedModel) -> None:
    largest = (logits(one) - logits(other)).abs().max().item()
    assert largest <= ATOL, f"the compact and the masked model differ by {largest:.2g}"


def _nonzero(compaction: Compaction) -> int:
    """Weights of the compact model's linears that are stored: where zeros are left out, those that no mask empties."""
    total = 0
    for name, weight in structure_of(compaction.model).weights(compaction.model):
        mask = compaction.masks.get(name) if compaction.masks.sparse else None
        total += int(mask.expand().sum()) if mask else weight.numel()
    return total
