"""Forms in which a linear can compute without its zeros: other classes of the same layer, its parameters as they were.

A layer in such a form still has its `weight` and `bias`: it saves and loads like any other. What it computes with is
derived from the weight; where a gradient is wanted, or the weight is another one by now, it computes densely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCKS = (128, 64, 32, 16)
"""Block sizes that torch's Triton kernels take."""
_TILE = 64
"""Rows and columns of what torch packs two of four come in multiples of this for every dtype and backend."""
_HALF = (torch.float16, torch.bfloat16)
_DERIVED = ("_parts", "_stacks", "_places", "_block", "_packed", "_padding", "_of")


class Form(nn.Linear, ABC):
    """A linear that computes without its zeros in inference; made of a plain one by `make`."""

    kind: ClassVar[str]
    device: ClassVar[str]
    _of: tuple[object, ...] = ()

    @classmethod
    def make(cls, layer: nn.Linear, option: int) -> None:
        """Change a plain linear into this, in place; `option` is one of `options(layer)`."""
        layer.__class__ = cls
        made = cast(Form, layer)
        made._derive(option)
        made._of = made._state()

    @classmethod
    @abstractmethod
    def options(cls, layer: nn.Linear) -> Iterator[int]:
        """What may be tried with a layer; nothing where the form cannot hold it, or would save next to nothing."""

    @abstractmethod
    def _derive(self, option: int) -> None:
        """Make of the weight what `_sparse` computes with."""

    @abstractmethod
    def _sparse(self, flat: Tensor) -> Tensor:
        """x W^T + b of inputs [n, in]."""

    def _ready(self) -> bool:
        """Whether what was derived is of the weight that is there now."""
        return self._of == self._state()

    def _state(self) -> tuple[object, ...]:
        """What changes when the weight is trained, loaded, moved or replaced."""
        weight = self.weight
        version = None if weight.is_inference() else weight._version
        return version, weight.dtype, weight.device, weight.data_ptr()  # another one may have as many changes behind it

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not self._ready():
            return F.linear(input, self.weight, self.bias)
        return self._sparse(input.flatten(0, -2)).view(*input.shape[:-1], self.out_features)


class RowsOfBlocks(Form):
    """On the CPU: for every so many rows the inputs that any of them reads are gathered, for one small dense product.

    Inputs and outputs are turned, so that what is gathered lies side by side and each product writes where it belongs.
    """

    kind, device = "rows of blocks", "cpu"
    _WORTH = 0.7
    _parts: list[tuple[Tensor, Tensor]]

    @classmethod
    def options(cls, layer: nn.Linear) -> Iterator[int]:
        for rows in (32, 64, 128):
            if layer.out_features % rows == 0 and _read(layer.weight, rows) < cls._WORTH:
                yield rows

    def _derive(self, option: int) -> None:
        self._parts = list(_parts(self.weight, option))

    def _sparse(self, flat: Tensor) -> Tensor:
        turned = flat.T.contiguous()
        found = turned.new_empty(self.out_features, len(flat))
        start = 0
        for columns, block in self._parts:
            place = found[start : start + len(block)]
            if len(columns):
                torch.mm(block, turned.index_select(0, columns), out=place)
            else:
                place.zero_()
            start += len(block)
        return found.T.contiguous() if self.bias is None else torch.add(found.T, self.bias)


class StackedRows(RowsOfBlocks):
    """On the CPU: the same products, eight at a time as one batch, each of which a thread computes alone.

    With few tokens a product is too small to be shared out. Those of a batch read about as many inputs: rows are sorted
    by how many they read, and the shorter ones are filled up with zeros.
    """

    kind = "stacked rows of blocks"
    _TOGETHER = 8
    _stacks: list[tuple[Tensor, Tensor]]
    _places: Tensor

    def _derive(self, option: int) -> None:
        parts = list(_parts(self.weight, option))
        read = torch.tensor([len(columns) for columns, _ in parts])
        order = read.argsort()
        self._stacks = [_stacked([parts[row] for row in rows]) for rows in order.split(self._TOGETHER)]
        self._places = (order.argsort()[:, None] * option + torch.arange(option)).flatten()

    def _sparse(self, flat: Tensor) -> Tensor:
        turned, tokens = flat.T.contiguous(), len(flat)
        found = turned.new_empty(self.out_features, tokens)
        start = 0
        for columns, blocks in self._stacks:
            many, rows, width = blocks.shape
            place = found[start : start + many * rows].view(many, rows, tokens)
            torch.bmm(blocks, turned.index_select(0, columns).view(many, width, tokens), out=place)
            start += many * rows
        found = found.index_select(0, self._places).T
        return found.contiguous() if self.bias is None else torch.add(found, self.bias)


class BlockSparse(Form):
    """On CUDA: torch's block-sparse rows (BSR), whose products are Triton kernels where tokens are a multiple of a
    block: they are padded to one.
    """

    kind, device = "block-sparse rows", "cuda"
    _WORTH = 0.5
    _block: int
    _packed: Tensor

    @classmethod
    def options(cls, layer: nn.Linear) -> Iterator[int]:
        for size in _BLOCKS:
            fits = layer.out_features % size == 0 and layer.in_features % size == 0
            if size == max(_BLOCKS) and layer.weight.dtype not in _HALF:
                continue  # in float32 the kernel adds up in float64, without tensor cores: minutes of compiling
            if fits and _stored(layer.weight, size) < cls._WORTH:
                yield size

    def _derive(self, option: int) -> None:
        self._block = option
        with torch.inference_mode():  # one that was made outside of it cannot be turned in it, as a product does
            self._packed = self.weight.detach().to_sparse_bsr((option, option))

    def _sparse(self, flat: Tensor) -> Tensor:
        missing = -len(flat) % self._block
        given = F.pad(flat, (0, 0, 0, missing)) if missing else flat
        return F.linear(given, self._packed, self.bias)[: len(flat)]


class TwoOfFour(Form):
    """On CUDA: two of every four weights along the inputs, for the tensor cores that skip the rest; half precision.

    A layer may have it anywhere (`take`): what it computes with is derived when it is first used where there are such
    kernels, and anew of another weight; of one that is not two of four, and elsewhere, it computes densely.
    """

    kind, device = "two of four", "cuda"
    _packed: Tensor | None = None
    _padding: tuple[int, int] = (0, 0)

    @classmethod
    def take(cls, layer: nn.Linear) -> None:
        """Change a plain linear into this, in place, whatever its weight, which may not be there yet."""
        layer.__class__ = cls

    @classmethod
    def options(cls, layer: nn.Linear) -> Iterator[int]:
        weight = layer.weight
        if weight.dtype in _HALF and weight.shape[1] % 4 == 0 and bool(((weight != 0).view(-1, 4).sum(1) <= 2).all()):
            yield _TILE

    def _ready(self) -> bool:
        if torch.compiler.is_compiling() or not _has_kernels(self.weight):
            return False
        if not super()._ready():
            self._of, self._packed = self._state(), None
            for option in self.options(self):
                self._derive(option)
        return self._packed is not None

    def __getstate__(self) -> dict[str, Any]:
        """A copy derives its own."""
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def _derive(self, option: int) -> None:
        rows, columns = ((-size) % option for size in self.weight.shape)
        self._padding = (rows, columns)
        padded = F.pad(self.weight.detach(), (0, columns, 0, rows))
        self._packed = torch.sparse.to_sparse_semi_structured(padded.contiguous())

    def _sparse(self, flat: Tensor) -> Tensor:
        assert self._packed is not None
        rows, columns = self._padding
        given = F.pad(flat, (0, columns)) if columns else flat  # a pad by nothing is a copy
        bias = F.pad(self.bias, (0, rows)) if rows and self.bias is not None else self.bias
        return F.linear(given, self._packed, bias)[:, : self.out_features]


def packed_in(model: nn.Module) -> dict[str, bool]:
    """Names of the linears that are `TwoOfFour`, and whether each computes packed where it is now."""
    return {name: layer._ready() for name, layer in model.named_modules() if isinstance(layer, TwoOfFour)}


FORMS: tuple[type[Form], ...] = (RowsOfBlocks, StackedRows, BlockSparse, TwoOfFour)


def make_dense(layer: nn.Linear) -> None:
    """Undo `Form.make`: a plain linear again, in place."""
    if isinstance(layer, Form):
        for name in _DERIVED:
            layer.__dict__.pop(name, None)
        setattr(layer, "__class__", nn.Linear)  # noqa: B010  # the type checker takes no base class for its own


def _parts(weight: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For every so many rows the columns that any of them reads, and these columns of the rows."""
    for block in weight.detach().split(rows):
        columns = block.any(dim=0).nonzero().flatten()
        yield columns, block[:, columns].contiguous()


def _stacked(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Columns [many x widest] that blocks of rows read, one after the other, and the blocks [many, rows, widest].

    Where a block reads fewer it multiplies what another one reads by zeros.
    """
    widest = max(len(columns) for columns, _ in parts)
    wide = [F.pad(columns, (0, widest - len(columns))) for columns, _ in parts]
    return torch.cat(wide), torch.stack([F.pad(block, (0, widest - block.shape[1])) for _, block in parts])


def _has_kernels(weight: Tensor) -> bool:
    """Whether torch has kernels for two of four where this weight is, in its dtype: Ampere or later."""
    half, on_cuda = weight.dtype in _HALF, weight.device.type == "cuda" and torch.version.hip is None
    if not (half and on_cuda and torch.backends.cusparselt.is_available()):
        return False
    return torch.cuda.get_device_capability(weight.device) >= (8, 0)


def _read(weight: Tensor, rows: int) -> float:
    """Share of the weight that is left when only columns go in which all of so many rows have zeros."""
    return float(_blocks(weight, rows, 1).float().mean())


def _stored(weight: Tensor, size: int) -> float:
    """Share of the square blocks of a weight that are not all zeros."""
    return float(_blocks(weight, size, size).float().mean())


def _blocks(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Which blocks [rows, columns] of a weight hold anything."""
    height, width = weight.shape
    kept: Any = (weight != 0).view(height // rows, rows, width // columns, columns)
    found: Tensor = kept.any(dim=3).any(dim=1)
    return found
