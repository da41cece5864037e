"""Fields of pydantic models as rows."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from prune_cli.schema import FieldRow, fields


@pytest.mark.parametrize(
    ("annotation", "type_", "allowed"),
    [
        (int, "integer", ""),
        (bool, "boolean", ""),
        (str | None, "string or none", ""),
        (tuple[str, ...], "list of string", ""),
        (tuple[int, int], "[integer, integer]", ""),
        (dict[str, int], "mapping", ""),
        (Literal["a"], "string", "a"),
        (Literal["a", "b"] | None, "string or none", "a, b"),
        (int | Literal["auto"], "integer or string", "auto"),
        (Annotated[float, Field(ge=0, lt=1)], "number", ">= 0, < 1"),
        (Annotated[int, Field(multiple_of=8)], "integer", "multiple of 8"),
        (list[int | str], "list of integer or string", ""),
    ],
)
def test_types_and_limits(annotation: object, type_: str, allowed: str) -> None:
    model = create_model("Model", field=(annotation, Field(description="What it is.")))
    assert fields(model.model_json_schema()) == [FieldRow("field", type_, "required", allowed, "What it is.")]


def test_a_model_without_fields() -> None:
    class Empty(BaseModel):
        pass

    assert fields(Empty.model_json_schema()) == []
