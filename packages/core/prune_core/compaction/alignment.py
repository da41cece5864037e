"""How many neurons feed-forward units hold beyond what their masks leave, so that sizes are multiples of a number.

Which multiples a device likes is measured on it: a unit with the neurons that its masks leave, against the same with a
few more. What is found is plain data, from which a compactor makes the same model at any time.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prune_core.arithmetic import arithmetic, computed_in
from prune_core.compaction.cutting import narrow
from prune_core.compaction.decide import needed
from prune_core.compaction.resize import lines
from prune_core.errors import RunError
from prune_core.files import write_text
from prune_core.linears import inputs, linear, outputs
from prune_core.measure import Ratio, dummy_inputs, fitting, paired_ratio, pick_device, placed, time_calls
from prune_core.measure.forwards import inputs_inside
from prune_core.structure import FeedForward, ModelStructure, Role

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from prune_core.compactor import Compactor
    from prune_core.masks import MaskSet
    from prune_core.recipe import Align, MeasureSection, Recipe

MULTIPLES = (8, 16, 32, 64)
"""What `auto` tries."""
ANY: Align = 1
"""Every size is a multiple of it."""


@dataclass(frozen=True)
class Size:
    """Units by key that need as many neurons, how many they hold, and how many times faster that was (median, 95 %
    interval); of units that hold what they need the figures are those of the best that was tried. None: not measured.
    """

    units: tuple[str, ...]
    needed: int
    kept: int
    gain: float | None = None
    low: float | None = None
    high: float | None = None

    def note(self) -> str:
        """The same for people."""
        others = f" and {len(self.units) - 1} others" if len(self.units) > 1 else ""
        timed = "" if self.gain is None else f" ({self.gain:.2f}x, {self.low:.2f} to {self.high:.2f})"
        if self.kept == self.needed:
            return f"{self.units[0]}{others}: {self.needed} neurons stay, no multiple was faster for certain{timed}"
        faster = f", which is faster{timed}" if timed else ""
        return f"{self.units[0]}{others}: {self.kept} neurons are kept where {self.needed} are needed{faster}"


@dataclass(frozen=True)
class Alignment:
    """What was asked for, a multiple or "auto", and the sizes that it makes."""

    asked: Align = ANY
    sizes: tuple[Size, ...] = ()

    def applied(self, compactor: Compactor) -> Compactor:
        """The compactor that keeps to it; RecipeError where it is one that cannot."""
        if self.asked == ANY:
            return compactor
        return compactor.holding({key: size.kept for size in self.sizes for key in size.units})

    def notes(self) -> tuple[str, ...]:
        """What became of each size, for people to read."""
        return tuple(size.note() for size in self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"asked": self.asked, "sizes": [asdict(size) | {"units": list(size.units)} for size in self.sizes]}

    def save(self, path: Path) -> None:
        """Write it, where anything was asked for."""
        if self.asked != ANY:
            write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, asked: Align) -> Alignment | None:
        """What `save` wrote where the same was asked for, else None; RunError where the file is damaged."""
        if asked == ANY:
            return cls()
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            sizes = (Size(**{**size, "units": tuple(size["units"])}) for size in found["sizes"])
            return cls(asked, tuple(sizes)) if found["asked"] == asked else None
        except (ValueError, TypeError, LookupError) as error:
            raise RunError(f"{path} is damaged: {error}; remove it and resume: sizes are decided anew") from error


def align(model: PreTrainedModel, masks: MaskSet, structure: ModelStructure, recipe: Recipe) -> Alignment:
    """The sizes that a recipe asks for of a model under masks, which stays as it is.

    An empty unit stays empty, and none gets more neurons than it has in `model`.
    """
    if recipe.align == ANY:
        return Alignment()
    counts = {unit: needed(model, unit, masks) for unit in structure.ffn if unit.size}
    odd = {unit: count for unit, count in counts.items() if 0 < count < unit.size}
    if recipe.align == "auto":
        found = _measured(model, odd, fitting(recipe.measure, model), pick_device(recipe.device))
    else:
        found = _rounded(odd, recipe.align)
    return Alignment(recipe.align, tuple(found))


def multiple(count: int, of: int, most: int) -> int:
    """The next multiple of a number, or the whole where that is less."""
    return min(-(-count // of) * of, most)


def _rounded(units: Mapping[FeedForward, int], of: int) -> Iterator[Size]:
    def sizes(unit: FeedForward) -> tuple[int, int]:
        return units[unit], multiple(units[unit], of, unit.size)

    for (count, kept), alike in groupby(sorted(units, key=sizes), sizes):
        if kept > count:
            yield Size(tuple(unit.key for unit in alike), count, kept)


def _measured(
    model: PreTrainedModel, units: Mapping[FeedForward, int], section: MeasureSection, device: torch.device
) -> Iterator[Size]:
    """Of units that are alike one is timed, on inputs as large as it gets; those without inputs are left alone.

    The arithmetic is what the recipe asks for, and the model's own where it says nothing.
    """
    dtype = computed_in(section.dtype) if "dtype" in section.model_fields_set else model.dtype
    batch = placed(dummy_inputs(model, section.batch_size, section.length), model)
    inside = inputs_inside(model, (unit.up for unit in units), batch)
    shapes = {unit: inside[unit.up].shape for unit in units if unit.up in inside}

    def kind(unit: FeedForward) -> tuple[Any, ...]:
        features = inputs(linear(model, unit.up)), outputs(linear(model, unit.down))
        return units[unit], unit.size, features, shapes[unit], unit.gate is not None, unit.fused, unit.turned

    for _, alike in groupby(sorted(shapes, key=kind), kind):
        first, *others = alike
        given = torch.randn(shapes[first], dtype=dtype, device=device)
        with arithmetic(section.dtype):
            kept, ratio = fastest(units[first], first.size, partial(gains_of, model, first, given, section.rounds))
        yield Size(tuple(unit.key for unit in (first, *others)), units[first], kept, *(ratio.figures if ratio else ()))


def fastest(count: int, most: int, gains: Callable[[Sequence[int]], Mapping[int, Ratio]]) -> tuple[int, Ratio | None]:
    """How many of up to `most` neurons to hold where `count` are needed, and the gain; None where there is no choice.

    `gains` times sizes against the first of them. A multiple is taken where the whole interval of its gain is above 1,
    and that of a second measurement too: of several that are tried, one may look faster by chance.
    """
    sizes = sorted({multiple(count, of, most) for of in MULTIPLES} - {count})
    if not sizes:
        return count, None
    found = gains([count, *sizes])
    faster = [size for size in sizes if found[size].low > 1]
    best = max(faster or sizes, key=lambda size: found[size].value)
    if not faster:
        return count, found[best]
    again = gains([count, best])[best]
    return (best if again.low > 1 else count), again


def gains_of(
    model: PreTrainedModel, unit: FeedForward, given: Tensor, rounds: int, sizes: Sequence[int]
) -> dict[int, Ratio]:
    """How many times faster a unit of each size is than one of the first size."""
    calls = {str(size): partial(Part(model, unit, size).to(given), given) for size in sizes}
    with torch.inference_mode():
        seconds = time_calls(calls, rounds, given.device)
    return {size: paired_ratio(seconds[str(sizes[0])], seconds[str(size)]) for size in sizes[1:]}


class Part(nn.Module):
    """The first neurons of a feed-forward unit, by themselves."""

    def __init__(self, model: PreTrainedModel, unit: FeedForward, size: int) -> None:
        super().__init__()
        activation: Any = reduce(getattr, unit.activation.split("."), model)
        self.activation: Callable[[Tensor], Tensor] = copy.deepcopy(activation)
        self.fused = unit.fused
        self.layers = nn.ModuleDict({role: _first(model, unit, name, size) for name, role in unit.linears().items()})

    def forward(self, given: Tensor) -> Tensor:
        first = {role: layer(given) for role, layer in self.layers.items() if role != Role.FFN_DOWN}
        if self.fused:
            gate, up = first[Role.FFN_GATE_UP].chunk(2, dim=-1)
        else:
            gate, up = first.get(Role.FFN_GATE), first[Role.FFN_UP]
        between = self.activation(up) if gate is None else self.activation(gate) * up
        found: Tensor = self.layers[Role.FFN_DOWN](between)
        return found


def _first(model: PreTrainedModel, unit: FeedForward, name: str, size: int) -> nn.Module:
    """A linear of a unit, cut to its first neurons; the model's own stays."""
    layer = linear(model, name)
    smaller = copy.deepcopy(layer, {id(layer.weight): layer.weight})
    narrow(smaller, *lines(unit, name, range(size)))
    return smaller
