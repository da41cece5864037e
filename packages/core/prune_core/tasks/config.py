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


class QuestionAnsweringConfig(TextConfig):
    """Extractive question answering: the answer is a span of the context."""

    max_length: int = Field(384, ge=8, description="Tokens of a window: question and a part of the context.")
    stride: int = Field(
        128, ge=0, description="Tokens that neighbouring windows share, at most half of the context's part of one."
    )
    max_question_length: int = Field(
        64, ge=1, description="Tokens at which a question is cut, at most half of a window."
    )
    unanswerable: bool | None = Field(
        None, description="Some questions have no answer (as in SQuAD 2.0); by default so where an example has none."
    )
    null_threshold: float = Field(
        0.0, description="No answer is given where its score exceeds the best span's by more than this."
    )
    n_best: int = Field(20, ge=1, description="Best starts, and best ends, of a window that spans are made of.")
    max_answer_length: int = Field(30, ge=1, description="Tokens of the longest answer that is given.")
