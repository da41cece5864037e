"""Configuration of the structured strategy."""

from typing import Literal

from pydantic import Field

from prune_core.kit.config import Binarizer, UnitMaskingConfig


class StructuredConfig(UnitMaskingConfig):
    """Whole heads and neurons, by hard concrete gates (arXiv:1712.01312, arXiv:2204.00408) unless told otherwise."""

    binarizer: Binarizer = Field("hard_concrete", description="How scores become masks.")
    attention: Literal["heads", "slices"] = Field(
        "heads",
        description="heads: one score a head; slices: one a head and matrix, and a head goes when its slices have.",
    )
    cooldown: float = Field(0.3, ge=0, lt=1, description="Share of the steps after it has arrived.")
    score_learning_rate: float = Field(5e-2, gt=0, description="Learning rate of the scores.")
    pressure_learning_rate: float = Field(
        5e-2, gt=0, description="Learning rate of the pressure's multipliers, with a target density."
    )
