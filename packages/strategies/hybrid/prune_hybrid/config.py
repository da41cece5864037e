"""Configuration of the hybrid strategy."""

from typing import Annotated

from pydantic import Field, model_validator

from prune_core.kit.config import MaskingConfig

Size = Annotated[int, Field(ge=1)]


class HybridConfig(MaskingConfig):
    """Blocks in attention and paired neurons in the feed-forward part (arXiv:2109.04838)."""

    attention_block: tuple[Size, Size] = Field((32, 32), description="Rows and columns of attention's blocks.")
    joint_attention: bool = Field(
        False, description="One block mask for query, key, value and, transposed, the attention output."
    )

    @model_validator(mode="after")
    def _global(self) -> "HybridConfig":
        if self.scope == "local":
            raise ValueError("hybrid counts whole heads, which several matrices decide: only scope global can land")
        return self
