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


class TokenClassificationConfig(TextConfig):
    """One tag for each word of a text."""

    tag_names: tuple[str, ...] = Field((), description="Names of the tags 0, 1, ... where the data give only numbers.")


class MultipleChoiceConfig(TextConfig):
    """The right one of several choices."""

    first_label: int = Field(0, ge=0, description="Label of the first choice where labels are numbers.")
