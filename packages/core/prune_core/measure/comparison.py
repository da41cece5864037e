"""One model against its baseline at one setting: what a run reports."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from prune_core.bench.grid import Grid
from prune_core.folders.pretrained import load_saved
from prune_core.measure.grids import Side, bench
from prune_core.measure.host import Machine
from prune_core.measure.inputs import fitted
from prune_core.measure.memory import folder_size
from prune_core.measure.timing import Ratio
from prune_core.recipe import MeasureSection


@dataclass(frozen=True)
class Comparison:
    """A model against its baseline. `speedup` is how many times faster `model` is (95 % interval: low, high),
    `significant` whether that interval leaves out 1, `flop_ratio` how many times fewer FLOPs it needs.
    """

    model: Side
    baseline: Side
    speedup: float
    speedup_low: float
    speedup_high: float
    significant: bool
    flop_ratio: float
    settings: dict[str, Any]
    machine: Machine

    @property
    def ratio(self) -> Ratio:
        """The speed-up with its interval."""
        return Ratio.from_dict(vars(self))

    def with_folders(self, model: Path, baseline: Path) -> "Comparison":
        """The same with the file sizes of two folders; None stays where one is no folder (a hub name)."""
        sizes = [folder_size(path) if path.is_dir() else None for path in (model, baseline)]
        return replace(
            self,
            model=replace(self.model, file_bytes=sizes[0]),
            baseline=replace(self.baseline, file_bytes=sizes[1]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, seconds and bytes throughout."""
        return asdict(self)


def compare_folders(model: str, baseline: str, section: MeasureSection, device: str = "auto") -> Comparison:
    """Two folders or hub names, loaded as the classes that saved them, and compared.

    `device` is auto, cpu or cuda. ModelError when one cannot be loaded, RecipeError when the settings do not fit.
    """
    sides = [load_saved(path) for path in (model, baseline)]
    comparison = compare(sides[0], sides[1], section, device)
    named = replace(
        comparison,
        model=replace(comparison.model, name=model),
        baseline=replace(comparison.baseline, name=baseline),
    )
    return named.with_folders(Path(model), Path(baseline))


def fitting(section: MeasureSection, model: PreTrainedModel) -> MeasureSection:
    """The section with no more tokens than the model takes: a run or an export shall not fail at its last stage."""
    return section.model_copy(update={"length": fitted(model, section.length)})


def compare(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    section: MeasureSection,
    device: str = "auto",
) -> Comparison:
    """Time `model` and `baseline` on the same random batch. Both are left as they are: a model that is elsewhere or of
    another dtype is copied. RecipeError when the length exceeds what a model takes or there is no CUDA device.
    """
    grid = Grid(
        batch_sizes=(section.batch_size,), lengths=(section.length,), dtypes=(section.dtype,), rounds=section.rounds
    )
    found = bench({"baseline": baseline, "model": model}, grid, device)
    row, ratio = found.rows[0], found.rows[0].speedups[0]
    return Comparison(
        model=row.sides[1],
        baseline=row.sides[0],
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        significant=ratio.significant,
        flop_ratio=row.flop_ratios[0],
        settings=section.model_dump(),
        machine=found.machine,
    )
