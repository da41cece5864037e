from pydantic import Field

from prune_core.kit.config import Binarizer, MaskingConfig


class Config(MaskingConfig):
    binarizer: Binarizer = Field("magnitude", description="How scores become masks.")
    attention: bool = Field(True, description="Prune heads as well as neurons.")
