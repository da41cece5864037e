"""The teacher of a training: what it puts out for a batch, and the loss of a student against it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from prune_core.compaction.stubs import NoAttention
from prune_core.distillation.examples import Beside, places_of
from prune_core.distributed.sharding import shard
from prune_core.errors import RecipeError
from prune_core.kit.distillation import (
    attention_loss,
    hidden_loss,
    layer_map,
    logits_loss,
    regression_loss,
    vector_loss,
)
from prune_core.task import IGNORED, ITEMS, Task

if TYPE_CHECKING:
    from prune_core.recipe import DistillationSection

logger = logging.getLogger(__name__)

Layers = Mapping[str, tuple[Tensor, ...]]

_STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
_MAPS = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
_STACKS = ("encoder", "decoder")
_EAGER = "eager"
"""The one implementation of attention that shows its maps."""


@dataclass(frozen=True)
class Lesson:
    """What a model puts out for a batch, as far as it is imitated, by name; `states` and `maps` layer by layer."""

    taught: Mapping[str, Tensor]
    states: Layers = field(default_factory=dict)
    maps: Layers = field(default_factory=dict)


class Memory(Protocol):
    """What a teacher once put out."""

    def lesson(self, examples: Sequence[int], like: Lesson) -> Lesson:
        """The teacher's lesson on these training examples, padded as the student's is."""


class Teacher:
    """A model to imitate on a task, with the weights of a recipe's distillation.

    With a `memory` the model itself is not asked any more about examples that are known by their number. `origins` says
    which of the whole model's layers those of a shortened student were, as its configuration does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        section: DistillationSection,
        memory: Memory | None = None,
        origins: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.model, self.task, self.section, self.memory = model.eval().requires_grad_(False), task, section, memory
        self.origins = origins or {}
        self._accepted = inspect.signature(model.forward).parameters  # another family may take fewer inputs
        if section.attention_maps:
            model.set_attn_implementation(_EAGER)

    @property
    def wanted(self) -> dict[str, bool]:
        """Options of a forward, the student's or the teacher's, such that it puts out all that is imitated."""
        asked = {"output_hidden_states": self.section.hidden_states, "output_attentions": self.section.attention_maps}
        return {name: True for name, weight in asked.items() if weight}

    def to(self, device: torch.device, *, sharded: bool = False) -> None:
        """Bring the model to where its inputs are, unless it is not asked any more; `sharded`: each process a part."""
        if self.memory is not None or isinstance(self.model, FSDPModule):
            return
        if sharded:
            shard(self.model, device)
        else:
            nn.Module.to(self.model, device)

    def counts(self, batch: Mapping[str, Any]) -> dict[str, int]:
        """Number of tokens, by stack, that the imitation of layers is the mean over in a batch, where it has a mask."""
        masks = {stack: _positions(stack, batch) for stack in _STACKS}
        return {stack: int(mask.sum()) for stack, mask in masks.items() if mask is not None}

    def loss(
        self,
        outputs: Any,
        batch: dict[str, Any],
        beside: Beside | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> Tensor:
        """The whole loss of a training step: the task's own and the imitation, by their weights.

        `beside`: what is known of a training batch; without it the device is waited for, and a memory not asked.
        `shares`: how a batch's numbers, of items and of `counts`, compare with their means over the batches of a step.
        """
        section, mine, shares = self.section, self._lesson(outputs, batch), shares or {ITEMS: 1.0}
        known = self.memory is not None and beside is not None
        theirs = self.memory.lesson(beside.examples, mine) if known else self.lesson(batch)  # type: ignore[union-attr]
        places = places_of(self.task.counted(batch)) if beside is None else beside.places
        own = self.task.loss(outputs, batch)
        loss: Tensor = section.logits * self._imitation(mine, theirs, places)
        if own is not None:
            loss = loss + section.cross_entropy * own
        loss = loss * shares[ITEMS]
        for name in mine.states.keys() & theirs.states.keys():
            pairs = self._pairs(name, mine.states[name], theirs.states[name], first=0)
            share = shares.get(_stack(name), shares[ITEMS])
            loss = loss + section.hidden_states * share * hidden_loss(*pairs, _positions(name, batch))
        for name in mine.maps.keys() & theirs.maps.keys():
            pairs = self._pairs(name, mine.maps[name], theirs.maps[name], first=1)
            share = shares.get(_stack(name), shares[ITEMS])
            loss = loss + section.attention_maps * share * attention_loss(*pairs, _positions(name, batch))
        return loss

    def lesson(self, batch: Mapping[str, Any]) -> Lesson:
        """What the teacher puts out for a batch."""
        inputs = {name: value for name, value in self.task.model_inputs(batch).items() if name in self._accepted}
        with torch.no_grad():
            return self._lesson(self.model(**inputs, **self.wanted), batch)

    def rehearse(self, student: PreTrainedModel, batch: dict[str, Any]) -> None:
        """One loss in evaluation mode. RecipeError where the two models cannot show what the recipe has imitated."""
        with showing_attention(student, self), torch.no_grad():
            mine = self.task.forward(student.eval(), batch, **self.wanted)
            for model, lesson in ((student, self._lesson(mine, batch)), (self.model, self.lesson(batch))):
                if self.section.attention_maps and not lesson.maps:
                    raise RecipeError(
                        f"distillation.attention_maps: {type(model).__name__} puts out no attention maps; leave it out"
                    )
            self.loss(mine, batch)

    def _lesson(self, outputs: Any, batch: Mapping[str, Any]) -> Lesson:
        states = _shown(outputs, _STATES) if self.section.hidden_states else {}
        maps = _shown(outputs, _MAPS) if self.section.attention_maps else {}
        means = {name: tuple(one.mean(dim=1) for one in layers) for name, layers in maps.items()}
        return Lesson(self.task.taught(outputs, batch), states, means)

    def _pairs(
        self, name: str, mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], first: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Student's and teacher's layers that belong together, of layers numbered from `first`.

        A student without some layers, of a teacher as deep as the whole: what enters a layer, and its attention, are
        those of the layer that it was.
        """
        depths = len(mine) - 1 + first, len(theirs) - 1 + first
        origin = self._origin(name)
        if self.section.layers is None and (len(origin) - 1, *origin[-1:]) == depths and max(origin) == depths[1]:
            return list(mine), [theirs[origin[place]] for place in range(len(mine))]
        layers = layer_map(*depths, self.section.layers)
        chosen = [(one - first, other - first) for one, other in layers.items() if min(one, other) >= first]
        return [mine[one] for one, _ in chosen], [theirs[other] for _, other in chosen]

    def _origin(self, name: str) -> tuple[int, ...]:
        """Of the stack whose states or maps have this name; of several that may be meant, none."""
        kind = name.partition("_")[0]
        stack = {"cross": "decoder"}.get(kind, kind)
        found = [one for key, one in self.origins.items() if stack in ("hidden", "attentions") or key.startswith(stack)]
        return found[0] if len(found) == 1 else ()

    def _imitation(self, mine: Lesson, theirs: Lesson, places: Tensor | None) -> Tensor:
        losses = []
        for name, student in mine.taught.items():
            pair = (student, theirs.taught[name])
            if places is not None:  # selected by number, which keeps nobody waiting as a mask does
                pair = (pair[0].flatten(0, 1).index_select(0, places), pair[1].flatten(0, 1).index_select(0, places))
            losses.append(self._difference(*pair))
        return torch.stack(losses).mean()

    def _difference(self, mine: Tensor, theirs: Tensor) -> Tensor:
        if self.task.imitation == "distribution":
            return logits_loss(mine, theirs, self.section.temperature)
        return (regression_loss if self.task.imitation == "value" else vector_loss)(mine, theirs)


def for_student(
    section: DistillationSection, teacher: PreTrainedModel, student: PreTrainedModel
) -> DistillationSection:
    """The section, less what `student` cannot imitate of `teacher`; a warning says what and why."""
    sizes = [getattr(model.config, "hidden_size", None) for model in (teacher, student)]
    if section.hidden_states and sizes[0] != sizes[1]:
        logger.warning(
            "the teacher's hidden states are of size %s, the student's of size %s: they are not imitated", *sizes
        )
        section = section.model_copy(update={"hidden_states": 0.0})
    if section.attention_maps and any(isinstance(module, NoAttention) for module in student.modules()):
        logger.warning("layers of the student have no attention left: attention maps are not imitated any more")
        section = section.model_copy(update={"attention_maps": 0.0})
    return section


@contextmanager
def showing_attention(student: PreTrainedModel, teacher: Teacher | None) -> Iterator[None]:
    """In the meantime the student computes its attention so that it can show its maps, if the teacher wants them."""
    if teacher is None or not teacher.section.attention_maps:
        yield
        return
    before = student.config._attn_implementation
    student.set_attn_implementation(_EAGER)
    try:
        yield
    finally:
        student.set_attn_implementation(before)


def _shown(outputs: Any, names: tuple[str, ...]) -> dict[str, tuple[Tensor, ...]]:
    return {name: tuple(outputs[name]) for name in names if outputs.get(name)}


def _stack(layers: str) -> str:
    """Which of two stacks has the queries, or the tokens, of these layers."""
    return "decoder" if layers.startswith(("decoder", "cross")) else "encoder"


def _positions(layers: str, batch: Mapping[str, Any]) -> Tensor | None:
    """Which tokens of hidden states, or which queries of attention maps, are no padding, [texts, tokens].

    An example may hold several texts, as in multiple choice: to the layers they are a batch.
    """
    if _stack(layers) == "decoder":
        labels = batch.get("labels")
        return None if labels is None else (labels != IGNORED).long()
    mask: Tensor | None = batch.get("attention_mask")
    return None if mask is None else mask.flatten(0, -2)
