"""How a density, a threshold or a penalty weight moves over a training (cubic: arXiv:1710.01878)."""

from dataclasses import dataclass
from typing import Literal

from prune_core.strategy import Progress


@dataclass(frozen=True)
class Schedule:
    """From `start` to `end`; constant for the first `warmup` and the last `cooldown` share of the steps."""

    start: float
    end: float
    warmup: float = 0.0
    cooldown: float = 0.0
    shape: Literal["cubic", "linear", "constant"] = "cubic"

    def progress(self, at: Progress) -> float:
        """How much of the way is done, 0 to 1: 1 - (1 - t)^3 for the cubic schedule, t in the moving part."""
        if self.shape == "constant":
            return 1.0
        first, last = self.warmup * at.total, (1 - self.cooldown) * at.total
        if at.step >= last:
            return 1.0
        t = max(at.step - first, 0.0) / (last - first)
        return float(t) if self.shape == "linear" else float(1 - (1 - t) ** 3)

    def value(self, at: Progress) -> float:
        """The scheduled value."""
        return self.start + (self.end - self.start) * self.progress(at)
