"""Configurations of our tasks: what can be set beside where the data are."""

from pydantic import Field

from prune_core.task import TaskConfig


class TextConfig(TaskConfig):
    """Any task on texts."""

    max_length: int = Field(128, ge=2, description="Tokens at which a text is cut.")


class ImageClassificationConfig(TaskConfig):
    """One label for an image."""

    regression: bool | None = Field(None, description="The label is a number; by default so where it has decimals.")


class TextClassificationConfig(TextConfig):
    """One label, or one number, for a text or a pair of texts."""

    regression: bool | None = Field(None, description="The label is a number; by default so where it has decimals.")
