"""The shape of a score: which weights of a matrix live and die together, and how a score expands to a mask.

Blocks are equal parts of r rows and c columns of a weight [out, in], one score each. A head is some whole rows (or
columns), a neuron one row (or column); where several matrices are fused to one, some of each of its parts. Rows x
columns multiplies a row mask and a column mask (arXiv:2109.04838); n:m scores single weights under a constraint.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from prune_core.errors import MaskError, StructureError

Axis = Literal["rows", "columns"]
Shape = tuple[int, ...]


class Granularity(ABC):
    """How one score covers weights. `kind` is the name that `Compactor.accepts` uses, `str()` the form in files."""

    kind: ClassVar[str]

    @abstractmethod
    def score_shape(self, weight: Shape) -> Shape:
        """Shape of the scores of a weight of this shape. Raises StructureError where it does not divide."""

    @abstractmethod
    def factors(self, mask: Tensor, weight: Shape) -> tuple[Tensor, ...]:
        """What `seen` of a weight of this shape is multiplied by, one after the other, each broadcast."""

    def seen(self, weight: Tensor) -> Tensor:
        """The weight as its factors see it: a view."""
        return weight

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """`weight` times the expanded mask."""
        product = self.seen(weight)
        for factor in self.factors(mask, tuple(weight.shape)):
            product = product * factor
        return product.view(weight.shape)

    @abstractmethod
    def collect(self, values: Tensor, mask: Tensor) -> Tensor:
        """`values`, one of each weight, summed over the weights that share a mask entry: the gradient of `mask` in
        `apply`, where `values` are weights times the gradient of the product.
        """

    @abstractmethod
    def reduce(self, values: Tensor) -> Tensor:
        """Mean of `values` (of the shape of the weight) over what each score covers."""

    @abstractmethod
    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        """For each output row, 1 where any weight survives: the mask of the bias. Shape [out].

        Of scores instead of a mask: the highest threshold at which a weight of the row survives.
        """

    @abstractmethod
    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        """`rows` for the input columns. Shape [in]."""

    def lines(self, mask: Tensor, weight: Shape, axis: Axis) -> Tensor:
        """`rows` or `columns`."""
        return self.rows(mask, weight) if axis == "rows" else self.columns(mask, weight)

    @abstractmethod
    def turned(self) -> "Granularity":
        """The same of a weight that is stored the other way round, [in, out], as a Conv1D's is.

        Raises StructureError where there is none.
        """

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        """The mask of every single weight, in the dtype of `mask`.

        Of scores instead of a mask: the highest threshold at which each weight survives.
        """
        return self.apply(torch.ones(weight, dtype=mask.dtype, device=mask.device), mask)


@dataclass(frozen=True)
class Block(Granularity):
    """Blocks of `height` x `width` weights, one score each."""

    kind: ClassVar[str] = "block"
    height: int
    width: int

    def score_shape(self, weight: Shape) -> Shape:
        if weight[0] % self.height or weight[1] % self.width:
            raise StructureError(
                f"blocks of {self.height}x{self.width} do not divide a weight of {weight[0]}x{weight[1]}; "
                f"choose sizes that divide {weight[0]} and {weight[1]}"
            )
        return weight[0] // self.height, weight[1] // self.width

    def _split(self, values: Tensor) -> Tensor:
        rows, columns = self.score_shape(tuple(values.shape))
        return values.view(rows, self.height, columns, self.width)

    def factors(self, mask: Tensor, weight: Shape) -> tuple[Tensor, ...]:
        rows, columns = mask.shape
        return (mask[:, None, :, None].expand(rows, 1, columns, self.width).reshape(rows, 1, -1),)

    def seen(self, weight: Tensor) -> Tensor:
        return weight.view(-1, self.height, weight.shape[1])  # whole rows: products of long runs

    def collect(self, values: Tensor, mask: Tensor) -> Tensor:
        rows, columns = mask.shape
        return values.view(rows, self.height, -1).sum(dim=1).view(rows, columns, self.width).sum(dim=2)

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask.repeat_interleave(self.height, dim=0).repeat_interleave(self.width, dim=1)

    def reduce(self, values: Tensor) -> Tensor:
        return self._split(values).mean(dim=(1, 3))

    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask.amax(dim=1).repeat_interleave(self.height)

    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask.amax(dim=0).repeat_interleave(self.width)

    def turned(self) -> "Block":
        return Block(self.width, self.height)

    def __str__(self) -> str:
        return f"block:{self.height}x{self.width}"


@dataclass(frozen=True)
class _Sliced(Granularity):
    """Whole rows or whole columns (its lines), `size` at a time, one score each: scores are one-dimensional.

    Where a matrix is several that were fused, one behind the other, `others` has the sizes in those behind the first:
    with (4, "rows", (2, 2)) score i of n covers rows 4i to 4i+3, and two behind 4n+2i and behind 6n+2i.
    """

    size: int
    axis: Axis
    others: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many lines of each of the fused matrices belong to one score."""
        return self.size, *self.others

    def score_shape(self, weight: Shape) -> Shape:
        lines, size = weight[0 if self.axis == "rows" else 1], sum(self.sizes)
        if lines % size:
            raise StructureError(
                f"{self} does not divide a weight of {weight[0]}x{weight[1]}: {size} does not divide {lines}"
            )
        return (lines // size,)

    def gather(self, values: Tensor) -> Tensor:
        """Values of all lines [lines, ...] by score: [scores, lines of one, ...], those of the first matrix first."""
        count = len(values) // sum(self.sizes)
        parts = values.split([count * size for size in self.sizes])
        return torch.cat([part.unflatten(0, (count, -1)) for part in parts], dim=1)

    def spread(self, values: Tensor) -> Tensor:
        """Values [scores] on all lines [lines]."""
        return values if self.sizes == (1,) else torch.cat([values.repeat_interleave(size) for size in self.sizes])

    def factors(self, mask: Tensor, weight: Shape) -> tuple[Tensor, ...]:
        lines = self.spread(mask)
        return (lines[:, None] if self.axis == "rows" else lines,)

    def collect(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.added(values.sum(dim=1 if self.axis == "rows" else 0))

    def added(self, values: Tensor) -> Tensor:
        """Values of all lines [lines], added up by score: [scores]. What gradients do on the way back of `spread`."""
        return values if self.sizes == (1,) else self.gather(values).sum(dim=1)

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        lines = self.spread(mask)
        return (lines[:, None] if self.axis == "rows" else lines).expand(weight)

    def reduce(self, values: Tensor) -> Tensor:
        return self.gather(values if self.axis == "rows" else values.T).mean(dim=(1, 2))

    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        return self.spread(mask) if self.axis == "rows" else mask.amax().expand(weight[0])

    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        return self.spread(mask) if self.axis == "columns" else mask.amax().expand(weight[1])

    def turned(self) -> Self:
        return replace(self, axis="columns" if self.axis == "rows" else "rows")

    def __str__(self) -> str:
        return f"{self.kind}:{self.axis}:{'+'.join(str(size) for size in self.sizes)}"


@dataclass(frozen=True)
class Head(_Sliced):
    """One score a head: `size` rows of query, key or value, or `size` columns of the attention output."""

    kind: ClassVar[str] = "head"


@dataclass(frozen=True)
class Neuron(_Sliced):
    """One score a feed-forward neuron: a row of up and gate, a column of down."""

    kind: ClassVar[str] = "neuron"
    size: int = 1
    axis: Axis = "rows"


@dataclass(frozen=True)
class Row(_Sliced):
    """One score a row (an output feature)."""

    kind: ClassVar[str] = "row"
    size: int = 1
    axis: Axis = "rows"


@dataclass(frozen=True)
class Column(_Sliced):
    """One score a column (an input feature)."""

    kind: ClassVar[str] = "column"
    size: int = 1
    axis: Axis = "columns"


class _Elementwise(Granularity):
    """One score a weight, of any shape (biases too)."""

    def score_shape(self, weight: Shape) -> Shape:
        return tuple(weight)

    def factors(self, mask: Tensor, weight: Shape) -> tuple[Tensor, ...]:
        return (mask,)

    def collect(self, values: Tensor, mask: Tensor) -> Tensor:
        return values

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask

    def reduce(self, values: Tensor) -> Tensor:
        return values

    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask.amax(dim=1) if len(weight) > 1 else mask

    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        return mask.amax(dim=0)


@dataclass(frozen=True)
class Element(_Elementwise):
    """One score a weight."""

    kind: ClassVar[str] = "element"

    def turned(self) -> "Element":
        return self

    def __str__(self) -> str:
        return "element"


@dataclass(frozen=True)
class NM(_Elementwise):
    """In each group of `m` weights along the input dimension, `n` survive (2:4 runs on sparse tensor cores)."""

    kind: ClassVar[str] = "n:m"
    n: int
    m: int

    def score_shape(self, weight: Shape) -> Shape:
        if weight[-1] % self.m:
            raise StructureError(f"{self} does not divide a weight of {weight[0]}x{weight[1]} along its inputs")
        return tuple(weight)

    def turned(self) -> Granularity:
        raise StructureError(
            f"{self} is a pattern along the inputs of a weight [out, in], and a Conv1D holds [in, out]: leave it out"
        )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True)
class RowsColumns(Granularity):
    """One score a row and one a column, row scores first; a weight survives where its row and its column do."""

    kind: ClassVar[str] = "rows_columns"

    def score_shape(self, weight: Shape) -> Shape:
        return (weight[0] + weight[1],)

    def factors(self, mask: Tensor, weight: Shape) -> tuple[Tensor, ...]:
        rows, columns = mask.split(list(weight))
        return rows[:, None], columns[None, :]

    def collect(self, values: Tensor, mask: Tensor) -> Tensor:
        rows, columns = torch.split(mask, list(values.shape))
        return torch.cat([values @ columns, rows @ values])

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        rows, columns = mask.split([weight[0], weight[1]])
        return torch.minimum(rows[:, None], columns[None, :])

    def reduce(self, values: Tensor) -> Tensor:
        return torch.cat([values.mean(dim=1), values.mean(dim=0)])

    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        rows, columns = mask.split([weight[0], weight[1]])
        return torch.minimum(rows, columns.amax())

    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        rows, columns = mask.split([weight[0], weight[1]])
        return torch.minimum(columns, rows.amax())

    def turned(self) -> "RowsColumns":
        return self

    def __str__(self) -> str:
        return "rows_columns"


_SLICED: dict[str, type[_Sliced]] = {kind.kind: kind for kind in (Head, Neuron, Row, Column)}
_SIZE = r"([1-9]\d*)"


def parse_granularity(text: str) -> Granularity:
    """The granularity that `str()` wrote, such as "block:32x32", "head:rows:64" or "2:4"; MaskError if none."""
    if text == "element":
        return Element()
    if text == "rows_columns":
        return RowsColumns()
    if match := re.fullmatch(rf"block:{_SIZE}x{_SIZE}", text):
        return Block(int(match[1]), int(match[2]))
    if match := re.fullmatch(rf"(head|neuron|row|column):(rows|columns):({_SIZE}(?:\+{_SIZE})*)", text):
        size, *others = (int(part) for part in match[3].split("+"))
        return _SLICED[match[1]](size, "rows" if match[2] == "rows" else "columns", tuple(others))
    if (match := re.fullmatch(rf"{_SIZE}:{_SIZE}", text)) and int(match[1]) <= int(match[2]):
        return NM(int(match[1]), int(match[2]))
    known = "element, block:RxC, rows_columns, N:M, and head, neuron, row or column with :AXIS:SIZE (or SIZE+SIZE...)"
    raise MaskError(f"unknown granularity {text!r}; known: {known}")
