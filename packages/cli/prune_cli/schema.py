"""The fields of a pydantic model as rows, from its JSON schema."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


@dataclass(frozen=True)
class FieldRow:
    """One field: `default` is "required" where there is none, `allowed` its values or limits in words."""

    name: str
    type: str
    default: Any
    allowed: str
    description: str


def fields(schema: Schema) -> list[FieldRow]:
    """Every field of a model's JSON schema; those of a model within it under dotted names."""
    return list(_rows(schema, schema.get("$defs", {}), ""))


def _rows(schema: Schema, definitions: Schema, prefix: str) -> Iterator[FieldRow]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        section = _section(field, definitions)
        if section is not None:
            yield from _rows(section, definitions, f"{prefix}{name}.")
            continue
        member, mark = _member(field, definitions)
        if member is not None:
            yield from _rows(member, definitions, f"{prefix}{name}{mark}.")
            continue
        options = _options(field, definitions)
        yield FieldRow(
            name=prefix + name,
            type=" or ".join(dict.fromkeys(_type(option, definitions) for option in options)),
            default="required" if name in required else field.get("default"),
            allowed=", ".join(filter(None, dict.fromkeys(map(_allowed, options)))),
            description=field.get("description", ""),
        )


def _section(field: Schema, definitions: Schema) -> Schema | None:
    """The model that a field holds, if it holds one."""
    target = _resolve(field, definitions)
    return target if "properties" in target else None


def _member(field: Schema, definitions: Schema) -> tuple[Schema | None, str]:
    """The model that the members of a list or mapping are, if they are one, and what stands for each in its name."""
    for key, mark in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(field.get(key), Mapping):
            return _section(field[key], definitions), mark
    return None, ""


def _resolve(field: Schema, definitions: Schema) -> Schema:
    reference = field.get("$ref")
    resolved: Schema = definitions[reference.rpartition("/")[2]] if reference else field
    return resolved


def _options(field: Schema, definitions: Schema) -> list[Schema]:
    """The alternatives of a field, itself when it has one only."""
    return [_resolve(option, definitions) for option in field.get("anyOf", [field])]


def _type(option: Schema, definitions: Schema) -> str:
    if "items" in option:
        items = " or ".join(_type(item, definitions) for item in _options(option["items"], definitions))
        return f"list of {items}"
    if "prefixItems" in option:
        return f"[{', '.join(_type(item, definitions) for item in option['prefixItems'])}]"
    if "enum" in option or "const" in option:
        return str(option.get("type", "choice"))
    name = str(option.get("type", "any"))
    return {"null": "none", "object": "mapping"}.get(name, name)


def _allowed(option: Schema) -> str:
    if "enum" in option:
        return ", ".join(map(str, option["enum"]))
    if "const" in option:
        return str(option["const"])
    if "prefixItems" in option:
        return ""  # its type says how many
    return ", ".join(words.format(option[key]) for key, words in _LIMITS.items() if key in option)
