"""Writes docs/recipes.md from the fields of the recipe and of our strategies; `--check` only compares."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prune_cli.schema import FieldRow, fields
from prune_core.kit.config import MaskingConfig
from prune_core.plugins import import_target, load_plugins
from prune_core.recipe import Recipe

TARGET = Path(__file__).with_name("recipes.md")

INTRODUCTION = """<!-- Written by docs/generate.py from the descriptions in the code; `make docs` writes it anew. -->
# Recipes

A recipe is a whole run in one YAML file; `prune run RECIPE.yaml` does it. The flags of the command line are the same
tree: a flag is stronger than the recipe, and `--set path=value` (the value is YAML) is stronger than a flag and reaches
every field. `--dry-run` checks everything short of training and prints the resolved recipe. Every run saves its own,
with absolute paths, and `prune run RUN` (or `RUN/recipe.yaml`) repeats it in a new folder.

```yaml
model: ./my-bert
task:
  name: text-classification
  train_file: train.csv
  validation_file: validation.csv
strategy:
  name: hybrid
  density: 0.35
  exclude: [layer.0.*]
training:
  epochs: 5
  learning_rate: 5.0e-5
output: runs/sentiment
```

Unknown fields, values out of range and misspelt names are refused before anything is loaded, all of them at once, each
with its path and the nearest name that exists.
"""


def document() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## The recipe\n", *_recipe(), "\n## Fields of every strategy\n"]
    parts += ["They stand beside `strategy.name`. A field that a strategy changes is given again with that strategy.\n"]
    shared = _rows(MaskingConfig, "strategy.")
    parts += _table(shared)
    for spec in (load_plugins().strategy(name) for name in ("structured", "hybrid", "block", "unstructured")):
        own = [row for row in _rows(import_target(spec.config), "strategy.") if row not in shared]
        parts += [f"\n## strategy.name: {spec.name}\n", f"{spec.summary[0].upper()}{spec.summary[1:]}.\n", *_table(own)]
    return "\n".join(parts) + "\n"


def _recipe() -> Iterator[str]:
    """The plain fields of a recipe, then its sections."""
    rows = _rows(Recipe, "")
    yield from _table([row for row in rows if "." not in row.name])
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield f"\n### {name}\n\n{' '.join((type(field.default).__doc__ or '').split())}\n"
            yield from _table([row for row in rows if row.name.startswith(f"{name}.")])


def _rows(model: type[BaseModel], prefix: str) -> list[FieldRow]:
    return [replace(row, name=prefix + row.name) for row in fields(model.model_json_schema())]


def _table(rows: list[FieldRow]) -> list[str]:
    found = [
        f"| `{row.name}` | {row.type} | {_default(row.default)} | {row.allowed} | {row.description} |".replace(
            "||", "\\|\\|"
        )
        for row in rows
    ]
    return (
        ["| field | type | default | allowed | |", "|---|---|---|---|---|", *found]
        if found
        else ["No field of its own."]
    )


def _default(value: Any) -> str:
    return "" if value in (None, [], {}) else f"`{value}`"


def main() -> int:
    text = document()
    if "--check" in sys.argv:
        return int(not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
