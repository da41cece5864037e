"""Networks that are known by their sizes alone: built with random weights and measured against their dense selves."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field, ValidationError
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from prune_core.bench.grid import Grid, Setting
from prune_core.compaction.resize import resize
from prune_core.errors import DataError, RecipeError, foreign
from prune_core.fields import Fields
from prune_core.folders.loading import structure_of
from prune_core.measure import Bench, Failure, Ratio, Row, Timing, paired_ratio
from prune_core.measure.grids import attempt
from prune_core.recipe import explain
from prune_core.structure import Unit

SHAPES: dict[str, dict[str, int]] = {
    "bert-base": {},
    "bert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""Shapes by name: fields of BertConfig that differ from its defaults."""


class Network(Fields):
    """A pruned BERT: heads and FFN neurons that each layer has left. Other fields of the file are let be."""

    model_config = ConfigDict(extra="ignore")
    row: str = Field(description="Its name.")
    base: str | dict[str, int] = Field(description="Shape of the dense model: a name, or fields of BertConfig.")
    heads_per_layer: tuple[int, ...] = Field(description="Heads left in each layer.")
    ffn_per_layer: tuple[int, ...] = Field(description="Neurons left in each layer.")
    speedup: float | None = Field(None, description="What was published.")

    def shape(self) -> dict[str, int]:
        """Fields of BertConfig of the dense model; RecipeError for a shape of no known name."""
        if isinstance(self.base, dict):
            return self.base
        if self.base not in SHAPES:
            raise RecipeError(f"networks: {self.row}: no shape is called {self.base!r}, only {', '.join(SHAPES)}")
        return SHAPES[self.base]

    def rivals(self) -> dict[str, dict[str, int]]:
        """Shapes of the dense models that it is measured against, by name: both BERTs for one of them."""
        return SHAPES if isinstance(self.base, str) else {"dense": self.base}


class _File(Fields):
    model_config = ConfigDict(extra="ignore")
    networks: tuple[Network, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Rival:
    """A network against one dense model: how many times faster it is, and how many times fewer FLOPs it needs, which
    is what it could win at most where nothing else costs time.
    """

    name: str
    timing: Timing
    speedup: Ratio
    flop_limit: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `share` is the part of the limit that was reached."""
        figures = {"flop_limit": self.flop_limit, "share": self.speedup.value / self.flop_limit}
        return {"name": self.name, "timing": asdict(self.timing), **self.speedup.to_dict(), **figures}


@dataclass(frozen=True)
class NetworkRow:
    """One network at one setting, beside the speed-up that was published of it, against the first of the rivals."""

    name: str
    setting: Setting
    timing: Timing
    published: float | None
    rivals: tuple[Rival, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rivals = {"published_speedup": self.published, "against": [rival.to_dict() for rival in self.rivals]}
        return {"name": self.name, **asdict(self.setting), "timing": asdict(self.timing), **rivals}


def read_networks(path: Path) -> tuple[Network, ...]:
    """The networks of a JSON file. DataError where it cannot be read, RecipeError naming the fields that are wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _File.model_validate(data).networks
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"networks: {path} cannot be read: {error}") from error
    except ValidationError as error:
        raise RecipeError(explain(error, _File, str(path))) from error


def build_network(network: Network) -> PreTrainedModel:
    """The network with random weights, in evaluation mode. RecipeError where it has layers, heads or neurons that its
    dense shape has not.
    """
    model = build_dense(network.shape())
    structure = structure_of(model)
    _cut(model, network, "heads_per_layer", structure.attention)
    _cut(model, network, "ffn_per_layer", structure.ffn)
    return model


def build_dense(shape: dict[str, int]) -> PreTrainedModel:
    """A dense BERT classifier of this shape with random weights, in evaluation mode."""
    fields: dict[str, Any] = dict(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = BertForSequenceClassification(BertConfig(**fields))
    model.train(False)
    return model


def bench_networks(path: Path, grid: Grid, device: str = "auto") -> Bench[NetworkRow]:
    """Measure every network of a file at all settings of `grid`: beside BERT-base and BERT-large where its shape is one
    of theirs, else beside the dense model of its shape; all that have the same rivals are interleaved.

    Networks that fail do not cost the others; where all fail the first error is raised.
    """
    if grid.lengths_of is not None:
        raise RecipeError("lengths_of: networks of random weights have no tokenizer; give lengths")
    networks = read_networks(path)
    rows: list[NetworkRow] = []
    failed: list[Failure] = []
    first: Exception | None = None
    for rivals, group in _by_rivals(networks):
        dense = {name: build_dense(shape) for name, shape in rivals.items()}
        found, error = attempt({**dense, **{one.row: build_network(one) for one in group}}, grid, device)
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # with the models of this group
            first = first or error
        rows += [_row(network, tuple(rivals), row) for row in found.rows for network in group]
        names = ", ".join(one.row for one in group)
        failed += [replace(one, error=f"{names}: {one.error}") for one in found.failed]
    if first is not None and not rows:
        with foreign(RecipeError, "no setting can be measured; the first"):
            raise first
    return Bench(tuple(rows), grid, found.machine, tuple(failed))


def _by_rivals(networks: Sequence[Network]) -> Iterator[tuple[dict[str, dict[str, int]], list[Network]]]:
    """Networks of the same rivals together; RecipeError for two of one name."""
    names = [name for network in networks for name in (network.row, *network.rivals())]
    twice = [network.row for network in networks if names.count(network.row) > 1]
    if twice:
        raise RecipeError(f"networks: two models are called {twice[0]!r}: give each a row of its own")
    alike = sorted(networks, key=lambda network: json.dumps(network.rivals(), sort_keys=True))
    for rivals, group in groupby(alike, Network.rivals):
        yield rivals, list(group)


def _cut(model: PreTrainedModel, network: Network, field: str, units: Sequence[Unit]) -> None:
    counts: tuple[int, ...] = getattr(network, field)
    if len(units) != len(counts):
        raise RecipeError(f"networks: {network.row}: {field} has {len(counts)} entries for {len(units)} layers")
    for unit, count in zip(units, counts, strict=True):
        if not 0 <= count <= unit.count:
            raise RecipeError(f"networks: {network.row}: {field}: {count} of {unit.count} in {unit.key}")
        resize(model, unit, range(count))


def _row(network: Network, rivals: Sequence[str], found: Row) -> NetworkRow:
    """A network against each of its rivals, round by round."""
    sides = {side.name: (side, seconds) for side, seconds in zip(found.sides, found.seconds, strict=True)}
    own, spent = sides[network.row]
    against = tuple(
        Rival(name, side.timing, paired_ratio(seconds, spent), side.flops / own.flops)
        for name, (side, seconds) in sides.items()
        if name in rivals
    )
    return NetworkRow(network.row, found.setting, own.timing, network.speedup, against)
