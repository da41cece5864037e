"""Columns of texts, and models that write text: what tasks on language have in common."""

import inspect
from collections.abc import Sequence
from typing import Any

import transformers
from datasets import Value
from transformers import PreTrainedConfig

from prune_core.errors import DataError, ModelError
from prune_core.folders.pretrained import auto_classes
from prune_core.tasks.data import STRINGS, Table


def is_text(table: Table, column: str) -> bool:
    """Whether a column holds strings."""
    feature = table.features[column]
    return isinstance(feature, Value) and feature.dtype in STRINGS


def text_columns(table: Table) -> list[str]:
    """Names of the columns that hold strings."""
    return [name for name in table.columns if is_text(table, name)]


def require_text(table: Table, role: str, column: str) -> str:
    """`column` where it is there and every row of it is a string; DataError where not."""
    table.require(role, column)
    if not is_text(table, column):
        raise DataError(f"{table.source}: column {column!r} holds {table.features[column]}; {role} must be strings")
    table.refuse_nulls(role, column)
    return column


def text_column(table: Table, role: str, columns: dict[str, str], names: Sequence[str]) -> str:
    """The column of a role: the one that is named, else the only text among `names`; DataError listing the columns."""
    if role in columns:
        return require_text(table, role, columns[role])
    found = [name for name in names if name in table.columns and is_text(table, name)]
    if len(found) == 1:
        return require_text(table, role, found[0])
    fault = f"several columns could be the {role}: {', '.join(found)}" if found else f"no column for the {role}"
    raise DataError(f"{table.source}: {fault}; found {', '.join(table.columns)}; name it with --column {role}=NAME")


def only_text(table: Table, role: str, columns: dict[str, str]) -> str:
    """The column of the only text there is: the one that is named, or "text", or the only one of strings."""
    texts = text_columns(table)
    return text_column(table, role, columns, ["text"] if "text" in texts else texts)


def head_class(auto_class: str, config: PreTrainedConfig) -> str | None:
    """Name of the class that one of transformers' Auto classes loads models of this type as; None for none."""
    found = auto_classes(getattr(transformers, auto_class), config)
    return found[0].__name__ if found else None


def read_inputs(auto_class: str, config: PreTrainedConfig, tokenizer: Any) -> list[str]:
    """What a tokenizer puts out that the model reads: by default a tokenizer makes token types, which few models do."""
    model: Any = getattr(transformers, str(head_class(auto_class, config)))
    taken = inspect.signature(model.forward).parameters
    return [name for name in tokenizer.model_input_names if name in taken]


def require_head_class(auto_class: str, config: PreTrainedConfig, model: str, purpose: str) -> None:
    """ModelError where models of this type cannot have the head that a task needs."""
    if head_class(auto_class, config) is None:
        raise ModelError(
            f"{model} is a {config.model_type}, which {auto_class} does not load: it is no model {purpose}"
        )
