"""MaskSet: what was decided, parameter by parameter. A Strategy produces one, a Compactor consumes one."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prune_core.errors import MaskError, StructureError
from prune_core.files import replacing
from prune_core.granularity import Axis, Element, Granularity, Shape, parse_granularity

FORMAT_VERSION = 1
STATE = "pruning"
"""Name of the submodule of a model that owns every score while masks are decided."""

_OTHERS = "give the model that they were made of, of a run RUN/masked with RUN/masks.safetensors"


@dataclass(frozen=True)
class Mask:
    """A binary mask of one parameter: `values` (bool, unexpanded) of a granularity, for a parameter of `shape`."""

    granularity: Granularity
    values: Tensor
    shape: Shape

    def __post_init__(self) -> None:
        expected = self.granularity.score_shape(self.shape)
        if tuple(self.values.shape) != expected:
            raise MaskError(
                f"a {self.granularity} mask of a parameter of shape {list(self.shape)} has shape {list(expected)}, "
                f"found {list(self.values.shape)}"
            )

    def expand(self) -> Tensor:
        """The mask of every weight: bool, of the parameter's shape."""
        return self.granularity.expand(self.values, self.shape)

    def alive(self, axis: Axis) -> Tensor:
        """Whether any weight of each row, or column, survives: bool, of as many as the parameter has."""
        return self.granularity.lines(self.values.to(torch.uint8), self.shape, axis).bool()

    def density(self) -> float:
        """Fraction of the parameter's entries that survive."""
        return self.expand().float().mean().item()


class MaskSet(Mapping[str, Mask]):
    """Parameter name -> Mask. `sparse` says what becomes of zeros inside heads and neurons that stay:

    False: they are stored like any other weight, so only whole heads and neurons count as removed.
    True: they stay zero, are left out on disk, and only non-zero weights count as remaining.

    `units` says of which model: the key of each of its units, masked or not, and how many heads or neurons it has.
    """

    def __init__(
        self, masks: Mapping[str, Mask], *, sparse: bool = False, units: Mapping[str, int] | None = None
    ) -> None:
        self._masks = dict(masks)
        self.sparse = sparse
        self.units = units

    def __getitem__(self, name: str) -> Mask:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"MaskSet({len(self)} parameters, density {self.density():.3f})"

    def density(self) -> float:
        """Fraction of the weights (biases aside) under masks that survive; 1 where there is none."""
        weights = [mask for mask in self.values() if len(mask.shape) > 1]
        total = sum(mask.shape[0] * mask.shape[1] for mask in weights)
        kept = sum(int(mask.expand().sum()) for mask in weights)
        return kept / total if total else 1.0

    def granularities(self) -> frozenset[str]:
        """Kinds of granularity of the weights' masks (a bias mask follows its weight's)."""
        return frozenset(mask.granularity.kind for mask in self.values() if len(mask.shape) > 1)

    def check(self, model: nn.Module) -> None:
        """MaskError where the model lacks a parameter that has a mask, or has it in another shape."""
        parameters = dict(model.named_parameters())
        for name, mask in self.items():
            if name not in parameters:
                raise MaskError(f"masks name the parameter {name!r}, which the model does not have: {_OTHERS}")
            if tuple(parameters[name].shape) != mask.shape:
                found = list(parameters[name].shape)
                raise MaskError(
                    f"the mask of {name!r} is for shape {list(mask.shape)}, the model has {found}: {_OTHERS}"
                )

    def check_units(self, units: Mapping[str, int]) -> None:
        """MaskError where the masks are known to be those of a model with other units."""
        ours = units if self.units is None else self.units
        for key in sorted(ours.keys() ^ units.keys() or {key for key in units if ours[key] != units[key]}):
            raise MaskError(
                f"these masks are those of another model: it has {ours.get(key, 'no')} heads or neurons in {key}, "
                f"this one {units.get(key, 'no')} ({len(ours)} units there, {len(units)} here)"
            )

    @torch.no_grad()
    def bake(self, model: nn.Module) -> None:
        """Set every masked parameter entry to zero, in place. MaskError, before any is set, where one does not fit."""
        self.check(model)
        parameters = dict(model.named_parameters())
        for name, mask in self.items():
            if not mask.values.all():
                parameters[name].masked_fill_(~mask.expand().to(parameters[name].device), 0)

    def save(self, path: str | Path, units: Mapping[str, int] | None = None) -> None:
        """Write a safetensors file: bits packed eight a byte, granularities, shapes and units in its header.

        `units`, where they are given, are those of the model (`ModelStructure.sizes`).
        """
        tensors = {name: torch.from_numpy(np.packbits(mask.values.cpu().numpy())) for name, mask in self.items()}
        described = {name: [str(mask.granularity), list(mask.shape)] for name, mask in self.items()}
        header = {
            "format": "prune-masks",
            "version": str(FORMAT_VERSION),
            "sparse": json.dumps(self.sparse),
            "masks": json.dumps(described),
            "units": json.dumps(None if units is None else dict(units)),
        }
        with replacing(Path(path)) as draft:
            save_file(tensors, draft, metadata=header)

    @classmethod
    def load(cls, path: str | Path) -> "MaskSet":
        """Read what `save` wrote. MaskError for a file that is missing, damaged or of another format."""
        path = Path(path)
        if not path.is_file():
            raise MaskError(f"no masks at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise _damaged(path, error) from error
        _check(header, path)
        try:
            units = json.loads(header.get("units", "null"))  # files of earlier versions do not say
            masks = _unpacked(tensors, json.loads(header["masks"]))
            return cls(masks, sparse=_boolean(header["sparse"]), units=None if units is None else dict(units))
        except (MaskError, StructureError, LookupError, ValueError, TypeError) as error:
            raise _damaged(path, error) from error


def bias_mask(granularity: Granularity, values: Tensor, weight: Shape, outputs: Axis = "rows") -> Mask:
    """Mask of the bias beside a weight, whose rows (of a Conv1D: columns) are outputs: an entry goes with its own."""
    kept = granularity.lines(values.to(torch.uint8), weight, outputs).bool()
    return Mask(Element(), kept, tuple(kept.shape))


def _damaged(path: Path, error: Exception) -> MaskError:
    return MaskError(f"{path} is damaged or not a masks file: {error}")


def _check(header: dict[str, str], path: Path) -> None:
    if header.get("format") != "prune-masks":
        raise MaskError(f"{path} is not a masks file: its header names the format {header.get('format')!r}")
    if header.get("version") != str(FORMAT_VERSION):
        raise MaskError(f"{path} has masks format {header.get('version')}, this prune reads {FORMAT_VERSION}: upgrade")


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _unpacked(tensors: dict[str, Tensor], described: dict[str, Any]) -> dict[str, Mask]:
    if set(described) != set(tensors):
        raise ValueError(f"it describes {sorted(described)} and holds {sorted(tensors)}")
    return {name: _unpack(tensors[name], *description) for name, description in described.items()}


def _unpack(bits: Tensor, granularity: str, shape: list[int]) -> Mask:
    parsed = parse_granularity(granularity)
    scores = parsed.score_shape(tuple(shape))
    count = math.prod(scores)
    if bits.numel() != math.ceil(count / 8):
        raise ValueError(f"{bits.numel()} bytes for {count} scores")
    values = np.unpackbits(bits.numpy(), count=count).astype(bool).reshape(scores)
    return Mask(parsed, torch.from_numpy(values), tuple(shape))
