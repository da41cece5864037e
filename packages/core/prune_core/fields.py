"""What fields of recipes and configurations have in common: no infinity, no truth value for a number, ~ for home."""

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator


class Fields(BaseModel):
    """Base of every section and configuration: frozen, no unknown field, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes true for 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        kinds = {wanted, *get_args(wanted)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("a number was expected")
        return value


def at_home(name: str) -> str:
    """The name with the home folder for ~; every other name, of a folder or of the hub, stays as it is."""
    return str(Path(name).expanduser()) if name.startswith("~/") else name


FilePath = Annotated[Path, AfterValidator(lambda path: Path(at_home(str(path))))]
"""A path in which ~ is the home folder."""
NameOrPath = Annotated[str, AfterValidator(at_home)]
"""A name of the hub, or the path of a folder in which ~ is the home folder."""
