"""Writes docs/recipes.md and docs/tasks.md from what the code says of itself, docs/families.md from what tests record,
docs/results/networks.md, docs/results/bars.md and the README's table from what was measured.

`--check` only compares.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bars_page import bars
from networks_page import networks
from pydantic import BaseModel
from readme_results import with_results

from prune_cli.schema import FieldRow, fields
from prune_core.exporting import FORMATS, supported
from prune_core.hookspecs import TaskSpec
from prune_core.kit.config import MaskingConfig
from prune_core.plugins import import_target, load_plugins
from prune_core.recipe import Recipe
from prune_core.task import TaskConfig
from prune_core.testing.tiny import tiny_config

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

WRITTEN = "<!-- Written by docs/generate.py from the descriptions in the code; `make docs` writes it anew. -->"

INTRODUCTION = f"""{WRITTEN}
# Recipes

A recipe describes a whole run in one YAML file; `prune run RECIPE.yaml` executes it. Command-line flags set the same
fields: a flag overrides the recipe, and `--set path=value` (the value is YAML) overrides both and reaches every
field. A flag also removes the field that it replaces: `--epochs` removes `max_steps`, `--train-file` removes the data
set. Defaults of a task (learning rate, batch size, lengths) come before those below: `prune tasks NAME` shows them.
`--dry-run` checks everything short of training and prints the resolved recipe. Every run saves its recipe with
absolute paths, and `prune run RUN` (or `RUN/recipe.yaml`) repeats it in a new folder.

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

Unknown fields, values out of range and misspelt names are refused before anything is loaded. All of them are reported
at once, each with its path and the nearest existing name.
"""


TASKS = f"""{WRITTEN}
# Tasks

A task is what a model is trained to do. It defines how data become batches, the head, what a student learns from its
teacher, and the figures. `prune tasks` lists the installed tasks, `prune tasks NAME` lists every field of one, and
[plugins.md](plugins.md#compactors-tasks-families) says what another has to do.

- **Data** are csv, json, jsonl or parquet files, or a data set on the hub (`--dataset NAME`). Without a validation
  set, a tenth of the training rows is held out.
- **Columns** are recognized by name or type if that is unambiguous; otherwise set them with `--column ROLE=NAME`, or
  `task.columns` in a recipe.
- **Texts** are padded per batch and batched with others of similar length. Their tokens are cached on disk between
  runs.
- **Fields** that every task has are in [recipes.md](recipes.md#task); `--set task.FIELD=VALUE` sets one.

A task named after a benchmark is one of these tasks with that benchmark's data, figure and suitable training, all of
which can be overridden. `prune run --task squad --model google-bert/bert-base-uncased` is a whole run. If the
environment variable `PRUNE_DATA` names a folder, files in it replace the hub: NAME-SPLIT.parquet, such as
sst2-train.parquet.
"""

FAMILIES = """<!-- Written by docs/generate.py from docs/families.json, which `make families` records. -->
# Families

What can be done with each family of transformers. Every tick is a test on a tiny random model with different heads
and feed-forward sizes in every layer, and nothing left in some (`prune_core.testing.contract.FamilyContract`). Where
there is no tick, the same test asserts that the model is refused, or left unchanged, for the numbered reason below.

- **heads**, **FFN**: whole heads and whole neurons are removed; the compact model computes the same as the masked
  one, in float32 to 1e-5, and reloads with plain `from_pretrained`
- **bf16**: the same for a model loaded in bfloat16, within its rounding
- **depth**: layers are removed (`--drop-layers`, `--keep-layers`), the configuration is updated, and the remaining
  layers are pruned
- **uniform**: one size for all layers (`--uniform`), which transformers loads with nothing else installed; empty
  layers are removed. If not all of heads, FFN and layers can be changed, the table names those that can
- **generate**: every class that generates produces the masked model's tokens, with a dynamic and a static cache
- **export**: torch.export, ONNX Runtime and OpenVINO compute the same; where there is no tick, the export is
  refused ([exporting.md](exporting.md))
"""

FAMILY_COLUMNS = {
    "heads": ("heads",),
    "FFN": ("FFN",),
    "bf16": ("bfloat16",),
    "depth": ("depth",),
    "uniform": ("uniform heads", "uniform FFN", "uniform layers"),
    "generate": ("dynamic cache", "static cache"),
    "export": FORMATS,
}
"""Column of the table of families -> what has to be done for its tick."""

FIGURES = {
    "image-classification": "accuracy; f1, matthews; pearson, spearman where the label is a number",
    "multiple-choice": "accuracy",
    "question-answering": "f1, exact_match; best_f1, best_exact_match too where questions have no answer",
    "text-classification": "accuracy; f1, matthews; pearson, spearman where the label is a number",
    "token-classification": "f1, precision, recall of whole spans where tags mark spans; accuracy of the tags",
}
"""Of tasks whose class does not name its figures, as they follow from the data."""

_NO_EXPORT = "it calls a function of its own in the middle of its graph, which no format can write"
"""Of Gemma 3 with images, the only family that no test exports."""

NEEDS = {"image-classification": "parquet", "multiple-choice": "jsonl", "token-classification": "jsonl"}
"""Files of tasks whose columns a csv file cannot hold; csv for the others."""


def recipes() -> str:
    """The page on recipes."""
    parts = [INTRODUCTION, "## The recipe\n", *_recipe(), "\n## Fields of every strategy\n"]
    parts += ["They are set beside `strategy.name`. A field that a strategy changes is listed again there.\n"]
    shared = _rows(MaskingConfig, "strategy.")
    parts += _table(shared)
    for spec in (load_plugins().strategy(name) for name in ("structured", "hybrid", "block", "unstructured")):
        own = [row for row in _rows(import_target(spec.config), "strategy.") if row not in shared]
        parts += [f"\n## strategy.name: {spec.name}\n", f"{_sentence(spec.summary)}\n", *_table(own)]
    return "\n".join(parts) + "\n"


def tasks() -> str:
    """The page on tasks: a section for each, with the benchmarks that are made of it."""
    ours = [
        offer.spec for offer in load_plugins().offers if offer.kind == "tasks" and offer.distribution == "prune-core"
    ]
    own = [spec for spec in ours if not _is_benchmark(spec)]
    sections = [section for spec in own for section in _task(spec, [s for s in ours if s.target == spec.target])]
    return "\n".join([TASKS, *sections]) + "\n"


def families() -> str:
    """The page on families: the table, the reasons for what has no tick, and the classes that were tried."""
    recorded = json.loads((FOLDER / "families.json").read_text(encoding="utf-8"))
    recorded = {family: _exports(family) | done for family, done in recorded.items()}
    tried = {name for parts in FAMILY_COLUMNS.values() for name in parts}
    reasons = [why for done in recorded.values() for name, why in done.items() if name in tried and why is not True]
    notes = {why: number for number, why in enumerate(dict.fromkeys(reasons), 1)}
    lines = [FAMILIES, f"| | {' | '.join(FAMILY_COLUMNS)} |", f"|---{'|---' * len(FAMILY_COLUMNS)}|"]
    for family, done in recorded.items():
        cells = (_family_cell([(name, done[name]) for name in parts], notes) for parts in FAMILY_COLUMNS.values())
        lines.append(f"| {family} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {_sentence(why).replace('..', '.')}" for why, number in notes.items())]
    lines += ["\n## Classes\n\nMasked = compact = reloaded was tested for each of these, the bare model included:\n"]
    for family, done in recorded.items():
        lines.append(f"- {family}: {', '.join(_family_class(name, done[name]) for name in done if name not in tried)}")
    return "\n".join(lines) + "\n"


def _exports(family: str) -> dict[str, bool | str]:
    """Whether compact models of a family compute the same in each format, as tests/exporting finds it."""
    model_type = tiny_config(family).model_type
    return {name: supported(model_type, name) or _NO_EXPORT for name in FORMATS}


def _family_cell(parts: list[tuple[str, bool | str]], notes: dict[str, int]) -> str:
    """A tick where all parts are done, or those that are, and the numbers of the reasons why the others are not."""
    done = ", ".join(name.split()[-1] for name, found in parts if found is True)
    numbers = ", ".join(dict.fromkeys(str(notes[str(found)]) for _, found in parts if found is not True))
    return f"{done or 'no'} ({numbers})" if numbers else "✓"


def _family_class(name: str, found: bool | str) -> str:
    return name if found is True else f"not {name} ({found})"


def _task(spec: TaskSpec, kin: list[TaskSpec]) -> Iterator[str]:
    """The section of a task; `kin` are it and the benchmarks of its class."""
    task = import_target(spec.target)
    figures = ", ".join(getattr(task, "figures", ())) or FIGURES.get(spec.name)
    if not figures:
        sys.exit(f"{spec.target} names no figures: give the class `figures`, or say here, in FIGURES, what they are")
    shared = _rows(TaskConfig, "task.")
    own = [row for row in _rows(import_target(spec.config), "task.") if row not in shared]
    yield f"\n## {spec.name}\n\n{_sentence(spec.summary)} {inspect.cleandoc(task.__doc__)}\n"
    yield f"- columns by role: {', '.join(f'`{role}`' for role in task.roles)}"
    yield f"- figures, the first by default: {figures}{'' if spec.defaults else chr(10)}"
    if spec.defaults:
        yield f"- defaults of its own: {_defaults(spec)}\n"
    yield from _table(own)
    yield _example(spec.name, task.roles)
    presets = [one for one in kin if _is_benchmark(one)]
    if presets:
        yield "\n| ready-made | data | columns | training, and other fields | |\n|---|---|---|---|---|"
        yield from (_preset(one) for one in sorted(presets, key=lambda one: one.name))


def _is_benchmark(spec: TaskSpec) -> bool:
    """Whether a task has data of its own."""
    return "dataset" in spec.defaults.get("task", {})


def _example(name: str, roles: tuple[str, ...]) -> str:
    files = {part: f"{part}.{NEEDS.get(name, 'csv')}" for part in ("train", "validation")}
    columns = ", ".join(f"{role}: {role}" for role in roles)
    return f"""
```bash
prune run --strategy hybrid --density 0.35 --model ./my-model --task {name} \\
  --train-file {files["train"]} --validation-file {files["validation"]} --output runs/{name}
```

```yaml
model: ./my-model
task:
  name: {name}
  train_file: {files["train"]}
  validation_file: {files["validation"]}
  columns: {{{columns}}}  # role: your column; leave out the roles that you do not have
strategy: {{name: hybrid, density: 0.35}}
output: runs/{name}
```"""


def _preset(spec: TaskSpec) -> str:
    task = spec.defaults.get("task", {})
    data = " ".join(str(task[name]) for name in ("dataset", "dataset_config") if name in task)
    columns = ", ".join(f"{role}: {column}" for role, column in task.get("columns", {}).items())
    return f"| `{spec.name}` | {data} | {columns} | {_defaults(spec)} | {_sentence(spec.summary)} |"


def _defaults(spec: TaskSpec) -> str:
    """What a task sets itself beside data and columns: training as it stands in the recipe, other fields by section."""
    fields = {
        name if section == "training" else f"{section}.{name}": value
        for section, values in spec.defaults.items()
        for name, value in values.items()
    }
    shown = ("task.dataset", "task.dataset_config", "task.columns")
    said = {name: value if str(value).isprintable() else repr(value) for name, value in fields.items()}
    return ", ".join(f"{name} {value}" for name, value in said.items() if name not in shown)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


PAGES: dict[str, Callable[[], str]] = {
    "recipes.md": recipes,
    "tasks.md": tasks,
    "families.md": families,
    "results/networks.md": partial(networks, RESULTS),
    "results/bars.md": partial(bars, RESULTS),
    "../README.md": partial(with_results, FOLDER.parent / "README.md", RESULTS),
}


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
    pages = {FOLDER / name: write() for name, write in PAGES.items()}
    if "--check" in sys.argv:
        return int(any(not page.is_file() or page.read_text(encoding="utf-8") != text for page, text in pages.items()))
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
