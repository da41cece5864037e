"""Configuration of the hybrid strategy."""

from typing import Annotated

from pydantic import Field

from prune_core.kit.config import UnitMaskingConfig

Size = Annotated[int, Field(ge=1)]


class HybridConfig(UnitMaskingConfig):
    """Blocks in attention and paired neurons in the feed-forward part (arXiv:2109.04838)."""

    attention_block: tuple[Size, Size] = Field((32, 32), description="Rows and columns of attention's blocks.")
    joint_attention: bool = Field(
        False, description="One block mask for query, key, value and, transposed, the attention output."
    )
