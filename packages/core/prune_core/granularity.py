"""The shape of a score: which weights of a matrix live and die together, and how a score expands to a mask.

Every granularity but two cuts a weight [out, in] into equal blocks of r rows and c columns, one score a block. A head
is a block of whole rows (or columns), a neuron one row (or column). Rows x columns multiplies a row mask and a column
mask (arXiv:2109.04838); n:m scores single weights under a constraint.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

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
    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        """`weight` times the expanded mask; the gradient of a mask entry sums over the weights that share it."""

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

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        """The mask of every single weight, in the dtype of `mask`.

        Of scores instead of a mask: the highest threshold at which each weight survives.
        """
        return self.apply(torch.ones(weight, dtype=mask.dtype, device=mask.device), mask)


@dataclass(frozen=True)
class _Blocks(Granularity):
    """Equal blocks; a subclass says how large, and how the grid of blocks is stored."""

    def block(self, weight: Shape) -> tuple[int, int]:
        """Rows and columns of one block of a weight of this shape."""
        raise NotImplementedError

    def grid(self, weight: Shape) -> tuple[int, int]:
        rows, columns = self.block(weight)
        if weight[0] % rows or weight[1] % columns:
            raise StructureError(
                f"blocks of {rows}x{columns} do not divide a weight of {weight[0]}x{weight[1]}; "
                f"choose sizes that divide {weight[0]} and {weight[1]}"
            )
        return weight[0] // rows, weight[1] // columns

    def score_shape(self, weight: Shape) -> Shape:
        return self.grid(weight)

    def _split(self, values: Tensor) -> Tensor:
        (rows, columns), (r, c) = self.grid(tuple(values.shape)), self.block(tuple(values.shape))
        return values.view(rows, r, columns, c)

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        rows, columns = self.grid(tuple(weight.shape))
        return (self._split(weight) * mask.reshape(rows, 1, columns, 1)).view(weight.shape)

    def expand(self, mask: Tensor, weight: Shape) -> Tensor:
        (rows, columns), (r, c) = self.grid(weight), self.block(weight)
        return mask.reshape(rows, 1, columns, 1).expand(rows, r, columns, c).reshape(weight)

    def reduce(self, values: Tensor) -> Tensor:
        return self._split(values).mean(dim=(1, 3)).view(self.score_shape(tuple(values.shape)))

    def rows(self, mask: Tensor, weight: Shape) -> Tensor:
        rows, columns = self.grid(weight)
        return mask.reshape(rows, columns).amax(dim=1).repeat_interleave(self.block(weight)[0])

    def columns(self, mask: Tensor, weight: Shape) -> Tensor:
        rows, columns = self.grid(weight)
        return mask.reshape(rows, columns).amax(dim=0).repeat_interleave(self.block(weight)[1])


@dataclass(frozen=True)
class Block(_Blocks):
    """Blocks of `height` x `width` weights, one score each."""

    kind: ClassVar[str] = "block"
    height: int
    width: int

    def block(self, weight: Shape) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"block:{self.height}x{self.width}"


@dataclass(frozen=True)
class _Sliced(_Blocks):
    """Whole rows or whole columns, `size` at a time, one score each: scores are one-dimensional."""

    size: int
    axis: Axis

    def block(self, weight: Shape) -> tuple[int, int]:
        return (self.size, weight[1]) if self.axis == "rows" else (weight[0], self.size)

    def score_shape(self, weight: Shape) -> Shape:
        return (self.grid(weight)[0 if self.axis == "rows" else 1],)

    def __str__(self) -> str:
        return f"{self.kind}:{self.axis}:{self.size}"


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

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

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

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True)
class RowsColumns(Granularity):
    """One score a row and one a column, row scores first; a weight survives where its row and its column do."""

    kind: ClassVar[str] = "rows_columns"

    def score_shape(self, weight: Shape) -> Shape:
        return (weight[0] + weight[1],)

    def apply(self, weight: Tensor, mask: Tensor) -> Tensor:
        rows, columns = torch.split(mask, list(weight.shape))
        return weight * rows[:, None] * columns[None, :]

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
    if match := re.fullmatch(rf"(head|neuron|row|column):(rows|columns):{_SIZE}", text):
        return _SLICED[match[1]](int(match[3]), "rows" if match[2] == "rows" else "columns")
    if (match := re.fullmatch(rf"{_SIZE}:{_SIZE}", text)) and int(match[1]) <= int(match[2]):
        return NM(int(match[1]), int(match[2]))
    known = "element, block:RxC, rows_columns, N:M, and head, neuron, row or column with :AXIS:SIZE"
    raise MaskError(f"unknown granularity {text!r}; known: {known}")
