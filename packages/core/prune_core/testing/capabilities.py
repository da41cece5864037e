"""What can be done with the models of a family, each tried out on a tiny random one: done exactly, or refused."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.compaction import compact
from prune_core.compaction.layers import layers_of
from prune_core.compactor import Compaction
from prune_core.errors import PruneError, VerificationError
from prune_core.folders.loading import structure_of
from prune_core.recipe import DepthSection
from prune_core.rewriting.depth import prove, shortened
from prune_core.structure import Attention, FeedForward, ModelStructure, Unit
from prune_core.testing.head_classes import head_classes, tiny_head
from prune_core.testing.loop import tensors
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.verification.verify import expect, largest_difference, outputs, verify

ATOL = 1e-5
"""Largest difference of two orders of the same float32 sums."""
TOKENS = 6
"""How many are generated after each prompt."""
PROMPTS = torch.tensor([[5, 9, 17, 33, 4, 21, 60, 12, 40, 3], [0, 0, 0, 7, 30, 11, 55, 8, 19, 3]])
ATTENDED = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])

Kept = Mapping[str, Iterable[int]]
"""Key of a unit -> heads (or neurons) that stay; a unit that is not there stays whole."""
Outcome = bool | str
"""True, or why it is not done."""


@dataclass(frozen=True)
class Sample:
    """A tiny model of a family, the inputs that a model of it takes, and whether its hidden states are `large`.

    Where they are, differences count relative to the largest value.
    """

    model: PreTrainedModel
    inputs: Callable[[PreTrainedModel], dict[str, Tensor]]
    large: bool = False

    @property
    def structure(self) -> ModelStructure:
        return structure_of(self.model)

    def of(self, cls: type[PreTrainedModel]) -> Sample:
        """The same with a model of another head."""
        return replace(self, model=tiny_head(cls, self.model.config))

    def compacted(self, kept: Kept, compactor: str = "auto") -> tuple[PreTrainedModel, Compaction]:
        """The masked model and its compaction; AssertionError where the masks change nothing."""
        masks = unit_masks(self.model, lambda unit: kept.get(unit.key))
        masked = copy.deepcopy(self.model)
        masks.bake(masked)
        assert self.difference(masked, self.model) > 1e-3, f"masks of {sorted(kept)} change nothing here"
        return masked, compact(self.model, masks, compactor)

    def difference(self, one: PreTrainedModel, other: PreTrainedModel) -> float:
        """Largest difference of outputs, and of hidden states where there are as many."""
        found = [[value.float() for value in tensors(model, self._inputs(model))] for model in (one, other)]
        if len(found[0]) != len(found[1]):
            found = [outputs(model, [self._inputs(model)]) for model in (one, other)]
        if self.large:
            scales = [value.abs().max().clamp_min(1) for value in found[0]]
            found = [[value / scale for value, scale in zip(values, scales, strict=True)] for values in found]
        return largest_difference(*found)

    def _inputs(self, model: PreTrainedModel) -> dict[str, Tensor]:
        inputs = self.inputs(model)
        return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def prove(self, masked: PreTrainedModel, compaction: Compaction) -> None:
        """VerificationError where masked, compact and reloaded model are not the same function."""
        batches = [self._inputs(masked)]
        verify(expect(masked, batches), compaction, batches).enforce()

    def check_same(self, compaction: Compaction, masked: PreTrainedModel) -> None:
        """The compact model computes what the masked one does; in bfloat16 up to what that loses to float32 itself."""
        exact = masked.dtype == torch.float32
        bound = ATOL if exact else self.difference(masked, copy.deepcopy(masked).float())
        found = self.difference(masked, compaction.model)
        what = f"{type(masked).__name__} in {masked.dtype}"
        assert found <= bound, f"the compact and the masked {what} differ by {found:.2g}, {bound:.2g} at most"


def outcome(check: Callable[[Sample], str | None], sample: Sample) -> Outcome:
    """True where it is done, or the reason why not; an AssertionError of the check is for the test to fail by."""
    try:
        return check(sample) or True
    except VerificationError:
        raise
    except PruneError as error:
        return str(error)


def heads(sample: Sample) -> str | None:
    """Other heads in every layer, none in some, none anywhere."""
    return _units(sample, Attention)


def neurons(sample: Sample) -> str | None:
    """Another number of neurons in every layer, none in some, none anywhere."""
    return _units(sample, FeedForward)


def head_class(sample: Sample) -> str | None:
    """Masked = compact = reloaded, heads and neurons being others in every layer."""
    masked, compaction = sample.compacted(uneven(sample.model))
    sample.check_same(compaction, masked)
    sample.prove(masked, compaction)
    return None


def bfloat16(sample: Sample) -> str | None:
    """The same of a model that is loaded in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        sample.model.save_pretrained(folder)
        one = replace(sample, model=type(sample.model).from_pretrained(folder, dtype=torch.bfloat16))
    try:
        one.difference(one.model, one.model)
    except RuntimeError as error:
        return f"the dense model itself does not run in bfloat16: {error}"
    return head_class(one)


def _units(sample: Sample, kind: type[Unit]) -> str | None:
    units = [unit.key for unit in sample.structure.units if isinstance(unit, kind)]
    for kept in ({key: uneven(sample.model)[key] for key in units}, dict.fromkeys(units, ())):
        masked, compaction = sample.compacted(kept)
        sample.check_same(compaction, masked)
        left = {unit.key: len(unit.kept) for unit in compaction.units if unit.key in kept}
        assert left == {key: len(list(indices)) for key, indices in kept.items()}, f"{left} are left, not {kept}"
    return None


def uniform_heads(sample: Sample) -> str | None:
    """Half the heads in all layers, in transformers' own classes."""
    return _uniform(sample, Attention)


def uniform_neurons(sample: Sample) -> str | None:
    """Half the neurons in all layers, in transformers' own classes."""
    return _uniform(sample, FeedForward)


def _uniform(sample: Sample, kind: type[Unit]) -> str | None:
    units = {unit.key: unit.count for unit in sample.structure.units if isinstance(unit, kind)}
    masked, compaction = sample.compacted({key: range(count // 2) for key, count in units.items()}, "uniform")
    sample.check_same(compaction, masked)
    sample.prove(masked, compaction)
    assert getattr(compaction.model.config, "quantization_config", None) is None, "a uniform model needs prune_core"
    left = structure_of(compaction.model).sizes()
    if all(left[key] == count // 2 for key, count in units.items()):
        return None
    why = [note.partition(": ")[2].replace(type(sample.model).__name__, "its class") for note in compaction.notes]
    return "; ".join(dict.fromkeys(why))


def uniform_layers(sample: Sample) -> str | None:
    """A layer of each stack of which nothing is left goes, with the configuration in step."""
    second = [layer for layer in layers_of(sample.structure) if layer.number == 1]
    if not second:
        return "no field of the configuration is known for the number of its layers"
    masked, compaction = sample.compacted({unit.key: () for layer in second for unit in layer.units}, "uniform")
    sample.check_same(compaction, masked)
    sample.prove(masked, compaction)
    left = len(layers_of(structure_of(compaction.model)))
    if left == len(layers_of(sample.structure)) - len(second):
        return None
    return "an empty layer stays: it does more than hand on what it gets, as where a norm stands behind the sum"


def depth(sample: Sample) -> str | None:
    """A layer of each stack is removed, whatever is in it; the others are then compacted as ever."""
    shorter, shortening = shortened(sample.model, sample.structure, DepthSection(drop=("*layer.1",)))
    prove(sample.model, shorter, shortening.gone, sample.inputs(shorter))
    one = replace(sample, model=shorter)
    gone = [unit for layer in shortening.gone for unit in layer.units]
    assert len(one.structure.units) == len(sample.structure.units) - len(gone), "other layers went than were asked for"
    return head_class(one)


def dynamic_cache(sample: Sample) -> str | None:
    """The same tokens as the masked model generates without a cache."""
    return _generates(sample, {})


def static_cache(sample: Sample) -> str | None:
    """The same tokens, from a cache of fixed size."""
    return _generates(sample, {"cache_implementation": "static"})


def _generates(sample: Sample, options: dict[str, str]) -> str | None:
    classes = [cls for cls in head_classes(sample.model.config).values() if cls.can_generate()]
    if not classes:
        return "no class of this family generates"
    for one in map(sample.of, classes):
        for kept in _kept_to_generate(one):
            masked, compaction = one.compacted(kept)
            expected, found = generated(one, masked, use_cache=False), generated(one, compaction.model, **options)
            assert torch.equal(found[0], expected[0]), f"{type(masked).__name__} generates other tokens"
            torch.testing.assert_close(found[1], expected[1], atol=ATOL, rtol=ATOL)
    return None


def _kept_to_generate(sample: Sample) -> Iterator[Kept]:
    """Uneven sizes; nothing of the first layer, whose cache tells the length of the past; no head anywhere."""
    yield uneven(sample.model)
    yield {key: () for key in sample.structure.keys() if "layer.0." in key}
    yield {unit.key: () for unit in sample.structure.attention}


def generated(sample: Sample, model: Any, **options: object) -> tuple[Tensor, Tensor]:
    """Greedy tokens [prompts, length] after two prompts, one padded at its left, and the logits of each step."""
    inputs, masks = PROMPTS, {"attention_mask": ATTENDED}
    if model.main_input_name != "input_ids":
        inputs, masks = sample.inputs(model)[model.main_input_name][: len(PROMPTS)], {}
    length = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
    record = {"return_dict_in_generate": True, "output_logits": True}
    found = model.generate(inputs, do_sample=False, **masks, **length, **record, **options)
    return found.sequences, torch.stack(found.logits)


CAPABILITIES: dict[str, Callable[[Sample], str | None]] = {
    "heads": heads,
    "FFN": neurons,
    "bfloat16": bfloat16,
    "depth": depth,
    "uniform heads": uniform_heads,
    "uniform FFN": uniform_neurons,
    "uniform layers": uniform_layers,
    "dynamic cache": dynamic_cache,
    "static cache": static_cache,
}
"""What is tried, by its name."""
