"""Configuration of the block strategy."""

from typing import Annotated

from pydantic import Field

from prune_core.kit.config import MaskingConfig

Size = Annotated[int, Field(ge=1)]


class BlockConfig(MaskingConfig):
    """Blocks of weights (block movement pruning, arXiv:2109.04838)."""

    attention_block: tuple[Size, Size] = Field((32, 32), description="Rows and columns of attention's blocks.")
    ffn_block: tuple[Size, Size] = Field((32, 32), description="Rows and columns of the feed-forward blocks.")
    joint_attention: bool = Field(
        False, description="One block mask for query, key, value and, transposed, the attention output."
    )
