"""What a run reports: figures of the dense and the pruned model side by side, and where they come from."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
import transformers

from prune_core.compaction.alignment import Alignment
from prune_core.compaction.layers import RECORD, origins
from prune_core.compactor import Compaction
from prune_core.embeddings.rounding import Rounding
from prune_core.folders.card import needs_us
from prune_core.measure import Comparison
from prune_core.plugins import Plugins
from prune_core.structure import is_feed_forward
from prune_core.verification.verify import Verification


@dataclass(frozen=True)
class Results:
    """All that was measured. `dense` figures are empty when the dense model had no trained head.

    `int8` are those of the pruned model in int8, empty where it was not trained for that. `share` of the dense model's
    prunable weights was there when the pruning began, after layers had been removed; `whole` counts its units by key.
    `further` names the first training of the compact model, None where it had none. `rounding` is what
    it cost to store the word embeddings in few bits, where that was asked for. `portable`: the folder has its own code.
    """

    metric: str
    dense: dict[str, float]
    pruned: dict[str, float]
    asked: float | None
    further: str | None
    compaction: Compaction
    verification: Verification
    comparison: Comparison
    greater_is_better: bool = True
    int8: dict[str, float] = field(default_factory=dict)
    alignment: Alignment = field(default_factory=Alignment)
    share: float = 1.0
    whole: Mapping[str, int] = field(default_factory=dict)
    rounding: Rounding | None = None
    portable: bool = False

    def manifest(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        return {
            "density": self._density(),
            "layers": getattr(self.compaction.model.config, RECORD, {}),
            "metric": {
                "name": self.metric,
                "dense": self.dense.get(self.metric),
                "pruned": self.pruned[self.metric],
                "greater_is_better": self.greater_is_better,
            },
            "metrics": {"dense": self.dense, "pruned": self.pruned, **({"int8": self.int8} if self.int8 else {})},
            "verification": asdict(self.verification) | {"passed": self.verification.passed},
            "speedup": self.comparison.to_dict(),
            "units": [{"key": u.key, "kept": len(u.kept), "of": u.total} for u in self.compaction.units],
            **({"rounding": asdict(self.rounding)} if self.rounding else {}),
            "filled": self.further is not None,
            "needs_prune_core": needs_us(self.compaction.model) and not self.portable,
            "portable": self.portable,
            "alignment": self.alignment.to_dict(),
            "notes": [*self.compaction.notes, *self.alignment.notes()],
            "summary": self.summary(),
        }

    def summary(self) -> list[dict[str, str]]:
        """The rows of the one table that a run prints."""
        sides = self.comparison.model, self.comparison.baseline
        model, baseline = sides
        heads, neurons = self._kept(neurons=False), self._kept(neurons=True)
        batch, dtype = (self.comparison.settings[name] for name in ("batch_size", "dtype"))
        where = self.comparison.machine.device + ("" if dtype == "float32" else f", {dtype}")
        before, ragged = self.dense.get(self.metric), self.compaction.ragged
        title = self.metric if self.greater_is_better else f"{self.metric} (lower is better)"
        then = self.further or ("the rounding" if self.rounding else None)
        when = f" (before {then})" if then else ""
        return [
            _row(title, "-" if before is None else _rounded(before), _rounded(self.pruned[self.metric])),
            *([_row(f"{self.metric} in int8", "", _rounded(self.int8[self.metric]))] if self.int8 else []),
            *self._unrounded(title),
            _row(
                "density" if self.asked is None else f"density (asked {self.asked:.4g})",
                "1",
                f"{self.compaction.density:.3f}",
            ),
            *([] if self.share == 1 else [_row("density, removed layers counted", "1", f"{self._of_dense:.3f}")]),
            *([] if ragged is None else [_row("density, sizes as the masks leave them", "", f"{ragged:.3f}")]),
            *self._layers(),
            _row("heads", str(heads[1]), str(heads[0])),
            _row("neurons", str(neurons[1]), str(neurons[0])),
            _row("parameters", f"{baseline.parameters:,}", f"{model.parameters:,}"),
            _row(
                "bytes on disk",
                *("-" if one.file_bytes is None else f"{one.file_bytes:,}" for one in (baseline, model)),
            ),
            _row("FLOPs", f"{baseline.flops:.3g}", f"{model.flops:.3g} (1/{self.comparison.flop_ratio:.2f})"),
            _row(
                f"ms a batch of {batch} ({where})",
                f"{baseline.timing.p50 * 1e3:.1f}",
                f"{model.timing.p50 * 1e3:.1f}",
            ),
            _row("speed-up", "1", str(self.comparison.ratio)),
            _row(f"masked = compact{when}", "", f"yes, to {self.verification.masked_vs_compact:.1e}"),
            _row("compact = reloaded", "", "yes, exactly"),
        ]

    def _unrounded(self, title: str) -> list[dict[str, str]]:
        """What the word embeddings in few bits cost: figure, outputs, bytes."""
        if self.rounding is None:
            return []
        smaller = self.rounding
        return [
            _row(f"{title}, embeddings in full", "", _rounded(smaller.in_full[self.metric])),
            _row(f"outputs changed by embeddings in {smaller.bits} bits", "", smaller.change),
            _row(
                "bytes on disk, embeddings in full", "", f"{(self.comparison.model.file_bytes or 0) + smaller.saved:,}"
            ),
        ]

    @property
    def _of_dense(self) -> float:
        """The density over all weights that the dense model has."""
        return self.share * self.compaction.density

    def _density(self) -> dict[str, float | None]:
        found = {"asked": self.asked, "reached": self.compaction.density, "ragged": self.compaction.ragged}
        return found | ({} if self.share == 1 else {"of_dense": self._of_dense})

    def _layers(self) -> list[dict[str, str]]:
        stacks = origins(self.compaction.model.config).items()
        return [_row(f"{key.removesuffix('layer.')}layers", str(one[-1]), str(len(one) - 1)) for key, one in stacks]

    def _kept(self, *, neurons: bool) -> tuple[int, int]:
        """Heads, or neurons, that were kept, and how many the dense model has."""
        of = {unit.key: unit.total for unit in self.compaction.units} | dict(self.whole)
        kept = [len(unit.kept) for unit in self.compaction.units if is_feed_forward(unit.key) == neurons]
        return sum(kept), sum(count for key, count in of.items() if is_feed_forward(key) == neurons)


def provenance(plugins: Plugins) -> dict[str, Any]:
    """Versions, machine and commit that a figure belongs to."""
    used = sorted({(offer.distribution, offer.version) for offer in plugins.offers})
    return {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, **dict(used)},
        "datasets": version("datasets"),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "git": _commit(),
    }


def _rounded(value: float) -> str:
    """Four decimals of a figure from -1 to 1, two of one that is counted otherwise, such as ROUGE or perplexity."""
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:,.2f}"


def _row(figure: str, dense: str, pruned: str) -> dict[str, str]:
    return {"figure": figure, "dense": dense, "pruned": pruned}


def _commit() -> str | None:
    """The commit of the folder that the run was started in, if that is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
