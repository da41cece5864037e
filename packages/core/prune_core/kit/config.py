"""The fields that every masking strategy shares. No torch here: configurations are read to list plugins."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prune_core.fields import FilePath
from prune_core.strategy import StrategyConfig

DEFAULT_DENSITY = 0.35

Share = Annotated[float, Field(gt=0, le=1)]
Binarizer = Literal["topk", "threshold", "sigmoid_threshold", "magnitude", "hard_concrete"]


class MaskingConfig(StrategyConfig):
    """A target density, or else an explicit penalty weight, and how the masks get there."""

    density: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"Share of the prunable weights that remains, {DEFAULT_DENSITY} by default; the run lands on it.",
    )
    part_densities: dict[str, Share] = Field(
        {},
        description="Own densities for parts of the model, by globs of `prune inspect` keys, such as encoder.*: 0.6 "
        "and decoder.*: 0.3; the rest uses `density`.",
    )
    penalty_weight: float | None = Field(
        None, gt=0, description="Weight of a penalty on the scores, instead of a density, which is then a result."
    )
    binarizer: Binarizer = Field("threshold", description="How scores become masks.")
    scope: Literal["global", "local"] = Field(
        "global", description="global: the highest scores of the whole model; local: the same share of every group."
    )
    attention_weight: float = Field(1.0, ge=0, description="Weight of the cost on attention's scores.")
    ffn_weight: float = Field(1.0, ge=0, description="Weight of the cost on the feed-forward scores.")
    exclude: tuple[str, ...] = Field(
        (), description='Units to leave alone, as globs of `prune inspect` keys: ["layer.0.*", "*.attention"].'
    )
    threshold: float = Field(0.1, description="Final threshold, with a penalty weight and a threshold binarizer.")
    floor: float = Field(
        0.005, ge=0, lt=1, description="Share of scores that survives any threshold, with a penalty weight."
    )
    schedule: Literal["cubic", "linear", "constant"] = Field("cubic", description="How density or threshold moves.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps before it starts to move.")
    cooldown: float = Field(0.4, ge=0, lt=1, description="Share of the steps after it has arrived.")
    freeze: bool = Field(True, description="Masks do not change any more in the cool-down.")
    score_learning_rate: float = Field(1e-2, gt=0, description="Learning rate of the scores.")
    pressure_learning_rate: float = Field(
        0.02, gt=0, description="Learning rate of the pressure's multipliers, with a target density."
    )
    mask_biases: bool = Field(True, description="A bias entry goes when all weights of its row are gone.")
    rewind: FilePath | None = Field(
        None, description="Folder or masks of an earlier run: the heads that it kept may not be pruned."
    )
    within: FilePath | None = Field(
        None,
        description="Folder or masks of an earlier run, of the same strategy or a coarser one: what it pruned stays "
        "pruned, and the density starts there.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MaskingConfig":
        if self.density is not None and self.penalty_weight is not None:
            raise ValueError("give a density or a penalty_weight, not both")
        if self.part_densities and self.penalty_weight is not None:
            raise ValueError("give part_densities or a penalty_weight, not both")
        if self.penalty_weight is not None and self.binarizer in ("topk", "magnitude"):
            raise ValueError(f"the binarizer {self.binarizer} keeps a density: give density, not penalty_weight")
        if self.warmup + self.cooldown >= 1:
            raise ValueError("warmup and cooldown leave no step for the masks to move: their sum must be below 1")
        return self

    @property
    def target(self) -> float | None:
        """The density to land on; None where a penalty weight decides."""
        if self.penalty_weight is not None:
            return None
        return DEFAULT_DENSITY if self.density is None else self.density


class UnitMaskingConfig(MaskingConfig):
    """For strategies that remove whole neurons."""

    neuron_multiple: int = Field(
        8, ge=1, description="Neurons stay in multiples of this in every layer: matrix kernels run odd sizes slower."
    )
