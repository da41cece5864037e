"""Lessons kept on disk: the teacher's forward is paid once for each training example.

Examples of like lengths lie together in a file of memory-mapped tensors, one for each thing that the teacher puts out,
[examples, rows, ...] (several rows an example where it is a choice among several). A file that is there is whole, and
the folder is named by all that decides what is in it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prune_core.distillation.teacher import Lesson, Teacher
from prune_core.errors import RecipeError, RunError
from prune_core.files import remove, remove_drafts, replacing
from prune_core.training import is_text, lengths_of
from prune_core.training.progress import steps_shown
from prune_core.transfer import outgoing, sent

if TYPE_CHECKING:
    from datasets import Dataset

    from prune_core.task import Task

logger = logging.getLogger(__name__)

_SHARD = 256
"""Examples a file."""
_SAMPLES = 16
"""Examples whose lessons are made beforehand to know how much room all will take."""
_VERSION = 1


def refuse_redrawn(task: Task, features: Dataset) -> None:
    """RecipeError where an example is another one in each batch: no lesson on one holds for the next.

    The second batch has another order, for what is drawn may follow from the batch (as masked-lm's hidden tokens do).
    """
    rows = [features[index] for index in range(min(8, len(features)))]
    one, other = task.collate(rows), task.collate(rows[::-1])
    changed = [name for name in one if not torch.equal(one[name], _reversed(other[name], len(rows)))]
    if changed:
        raise RecipeError(
            f"distillation.cache: {task.section.name} draws {', '.join(changed)} anew at each pass, so the teacher has "
            "to be asked each time; leave cache out"
        )


def _reversed(values: Tensor, examples: int) -> Tensor:
    """Of a batch with as many rows each for so many examples, the last example first."""
    return values.reshape(examples, -1, *values.shape[1:]).flip(0).flatten(0, 1)


class Lessons:
    """Lessons of a teacher on all training examples, in a folder."""

    def __init__(self, folder: Path, shards: Sequence[Sequence[int]], padding_side: str) -> None:
        self.folder, self.padding_side = folder, padding_side
        self._places = {example: (shard, row) for shard, part in enumerate(shards) for row, example in enumerate(part)}
        self._open: dict[int, Any] = {}

    def lesson(self, examples: Sequence[int], like: Lesson) -> Lesson:
        """The lesson on these examples, in the student's padding (see `_beside`). RunError for a damaged file."""
        places = [self._places[example] for example in examples]
        names = self._file(places[0][0]).keys()

        def recall(name: str, mine: Tensor) -> Tensor:
            remembered = [self._file(shard).get_slice(name)[row] for shard, row in places]
            return _beside(remembered, mine, self.padding_side)

        def layers(kind: str, name: str, mine: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            count = sum(one.startswith(f"{kind}.{name}.") for one in names)
            return tuple(recall(f"{kind}.{name}.{index}", mine[min(index, len(mine) - 1)]) for index in range(count))

        return Lesson(
            {name: recall(f"taught.{name}", mine) for name, mine in like.taught.items()},
            {name: layers("states", name, mine) for name, mine in like.states.items()},
            {name: layers("maps", name, mine) for name, mine in like.maps.items()},
        )

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:06}.safetensors"

    def _file(self, shard: int) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(self.path(shard), framework="pt")
            except (OSError, SafetensorError) as error:
                raise RunError(f"{self.path(shard)} is damaged ({error}); remove {self.folder} and resume") from error
        return self._open[shard]


def kept_lessons(teacher: Teacher, features: Dataset, folder: Path, batch_size: int) -> Lessons:
    """Lessons of `teacher` on all features, in a folder below `folder`: made now, as far as they are not there yet.

    RunError, before any is made, where the disk has no room for them.
    """
    shards = list(_shards(features))
    side = getattr(teacher.task.processor, "padding_side", None) or "right"
    lessons = Lessons(folder / _identity(teacher, features), shards, side)
    lessons.folder.mkdir(parents=True, exist_ok=True)
    _forget_others(lessons.folder)
    missing = [shard for shard in range(len(shards)) if not lessons.path(shard).is_file()]
    if missing:
        room = _room(teacher, features, [shards[shard] for shard in missing])
        need_room(lessons.folder, room)
        logger.info("the teacher's outputs for %s examples take at most %s", f"{len(features):,}", _size(room))
    for shard in steps_shown(missing, "teacher"):
        with replacing(lessons.path(shard)) as draft:
            save_file(_parts(teacher, features, shards[shard], batch_size), draft)
    return lessons


def need_room(folder: Path, room: int) -> None:
    """RunError where the disk that holds `folder` has less than so many bytes left."""
    free = shutil.disk_usage(folder).free
    if room > free:
        raise RunError(
            f"the teacher's outputs need up to {_size(room)} and {folder} has {_size(free)} left: make room, or leave "
            "distillation.cache out"
        )


def _shards(features: Dataset) -> Iterator[list[int]]:
    """All examples in parts, the longest texts first: what lies together is padded alike."""
    order = list(range(len(features)))
    if is_text(features):
        lengths = lengths_of(features)
        order.sort(key=lambda example: -lengths[example])
    for start in range(0, len(order), _SHARD):
        yield order[start : start + _SHARD]


def _identity(teacher: Teacher, features: Dataset) -> str:
    """A name for all that decides the lessons: the teacher's weights, what it is asked for, and the features."""
    decisive = hashlib.sha256()
    known = [_VERSION, type(teacher.task).__qualname__, teacher.task.section, teacher.wanted, teacher.model.config]
    decisive.update(repr([*known, features._fingerprint, len(features)]).encode())
    for name, tensor in teacher.model.state_dict().items():
        decisive.update(name.encode())
        decisive.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return decisive.hexdigest()[:32]


def _forget_others(folder: Path) -> None:
    """Remove all else from the folder: lessons of another teacher or on other features, and what a kill left."""
    for other in folder.parent.iterdir():
        if other != folder:
            remove(other)
    remove_drafts(folder)


def _room(teacher: Teacher, features: Dataset, shards: Sequence[Sequence[int]]) -> int:
    """Bytes that the lessons of these shards take at most, by those on the longest example of some of them."""
    step = -(-len(shards) // _SAMPLES)
    room = 0
    for start in range(0, len(shards), step):
        examples = sum(len(shard) for shard in shards[start : start + step])
        parts = _parts(teacher, features, shards[start][:1], 1)
        room += examples * sum(tensor.nbytes for tensor in parts.values())
    return room


def _parts(teacher: Teacher, features: Dataset, examples: Sequence[int], batch_size: int) -> dict[str, Tensor]:
    """The lesson on some examples, padded alike: name -> [examples, rows, ...]."""
    batch = teacher.task.collate([features[example] for example in examples])
    found: dict[str, list[Tensor]] = {}
    rows = {name: len(tensor) // len(examples) for name, tensor in batch.items()}
    for start in range(0, len(examples), batch_size):
        count = min(batch_size, len(examples) - start)
        part = {
            name: tensor[start * rows[name] : (start + count) * rows[name]].to(teacher.model.device)
            for name, tensor in batch.items()
        }
        for name, tensor in _named(teacher.lesson(part)):
            found.setdefault(name, []).append(tensor.unflatten(0, (count, -1)).cpu())
    return {name: torch.cat(tensors).contiguous() for name, tensors in found.items()}


def _named(lesson: Lesson) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in lesson.taught.items():
        yield f"taught.{name}", tensor
    for kind, stacks in (("states", lesson.states), ("maps", lesson.maps)):
        for name, layers in stacks.items():
            for index, tensor in enumerate(layers):
                yield f"{kind}.{name}.{index}", tensor


def _beside(examples: Sequence[Tensor], mine: Tensor, padding_side: str) -> Tensor:
    """Remembered rows, [rows, ...] for each example, in the shape of the student's.

    Both are padded on the same side, each as its batch was. Padding teaches nothing: there the student meets itself.
    Put together in the main memory and sent at once, so that no device is waited for.
    """
    found = outgoing(tuple(mine.shape), examples[0].dtype, mine.device)
    known = outgoing(tuple(mine.shape), torch.bool, mine.device).zero_()
    rows, whole = len(mine) // len(examples), True
    for own, where, remembered in zip(found.split(rows), known.split(rows), examples, strict=True):
        sizes = [min(pair) for pair in zip(own.shape, remembered.shape, strict=True)]
        shared = tuple(slice(-size, None) if padding_side == "left" else slice(size) for size in sizes)
        own[shared], where[shared] = remembered[shared], True
        whole &= sizes == list(own.shape)
    recalled = sent(found, mine.device)
    return recalled if whole else torch.where(sent(known, mine.device), recalled, mine.detach().to(recalled.dtype))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
