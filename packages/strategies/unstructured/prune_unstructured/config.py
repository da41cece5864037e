"""Configuration of the unstructured strategy."""

import re

from pydantic import Field, model_validator

from prune_core.kit.config import Binarizer, MaskingConfig


class UnstructuredConfig(MaskingConfig):
    """Single weights (movement pruning, arXiv:2005.07683), or a pattern of n of every m."""

    binarizer: Binarizer = Field("topk", description="How scores become masks.")
    score_learning_rate: float = Field(3e-3, gt=0, description="Learning rate of the scores.")
    pattern: str | None = Field(
        None, pattern=r"^[1-9]\d*:[1-9]\d*$", description="n:m, such as 2:4: of every m weights of a row n survive."
    )

    @model_validator(mode="after")
    def _pattern_sets_density(self) -> "UnstructuredConfig":
        if self.pattern is None:
            return self
        n, m = self.group
        if n >= m:
            raise ValueError(f"pattern {self.pattern} removes nothing: n must be below m")
        if self.penalty_weight is not None or self.density not in (None, n / m):
            raise ValueError(
                f"pattern {self.pattern} fixes the density at {n / m}: give no other, and no penalty_weight"
            )
        if self.part_densities:
            raise ValueError(f"pattern {self.pattern} fixes the density of every part: leave part_densities out")
        if self.rewind is not None:
            raise ValueError(f"pattern {self.pattern} cannot keep whole heads: leave rewind out")
        if self.binarizer not in ("topk", "magnitude"):
            raise ValueError(f"pattern {self.pattern} goes with the binarizers topk and magnitude")
        return self

    @property
    def group(self) -> tuple[int, int]:
        """n and m of the pattern; (0, 0) without one."""
        n, m = map(int, re.findall(r"\d+", self.pattern or "0:0"))
        return n, m

    @property
    def target(self) -> float | None:
        return self.group[0] / self.group[1] if self.pattern else super().target
