"""`prune bench` of model folders: what they are loaded as, the lengths of a data set, the sizes of their files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from prune_core.bench.grid import Grid
from prune_core.embeddings.trimming import texts_by_column
from prune_core.errors import DataError, RecipeError, nearest
from prune_core.folders.pretrained import load_saved, usable_length
from prune_core.measure import Bench, Row, bench, folder_size
from prune_core.plugins import load_plugins
from prune_core.runs.configuring import validated
from prune_core.runs.preparation import make_job
from prune_core.tasks.tokens import load_tokenizer


def bench_folders(models: Sequence[str], baseline: str, grid: Grid, device: str = "auto") -> Bench[Row]:
    """Folders or hub names, loaded as the classes that saved them, measured against `baseline` at all of `grid`.

    `device` is auto, cpu or cuda. ModelError when one cannot be loaded, RecipeError when the settings do not fit,
    DataError when there is no such data set.
    """
    paths = _named([baseline, *models])
    loaded = {name: load_saved(path) for name, path in paths.items()}
    limits = _limits(loaded.values(), grid.new_tokens or 0)
    if grid.lengths_of is None:
        found = bench(loaded, grid.at_most(min(limits, default=max(grid.lengths))), device)
    else:
        found = bench(loaded, grid, device, text_lengths(grid.lengths_of, baseline, limits))
    sizes = {name: folder_size(Path(path)) for name, path in paths.items() if Path(path).is_dir()}
    return replace(found, rows=tuple(_with_sizes(row, sizes) for row in found.rows))


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Name -> path; one that is given again, as to see the noise, is another model with a number."""
    counts = [paths[: place + 1].count(path) for place, path in enumerate(paths)]
    return {path if count == 1 else f"{path} ({count})": path for path, count in zip(paths, counts, strict=True)}


def text_lengths(source: str, model: str, limits: Sequence[int]) -> list[int]:
    """Tokens of each text of a data set in random order, cut to the least of `limits`.

    `source` is a file (txt, a text a line, or a table with one column of strings), or a task, by name, whose validation
    features are taken; the tokenizer is that of `model`. DataError where they have no token ids, or a table has several
    columns of strings, which may be labels, or pairs that a model reads as one text.
    """
    found = _in_file(Path(source), model) if Path(source).is_file() else _in_task(source, model)
    lengths = [min([length, *limits]) for length in found if length > 0]
    random.Random(0).shuffle(lengths)
    return lengths


def _limits(models: Iterable[PreTrainedModel], new_tokens: int) -> list[int]:
    """The most tokens of a text that each takes which has a limit; a decoder goes on from there by `new_tokens`."""
    found = []
    for model in models:
        behind = 0 if model.config.is_encoder_decoder else new_tokens
        if (limit := usable_length(model.config.get_text_config())) is not None:
            found.append(max(limit - behind, 1))
    return found


def _in_file(path: Path, model: str) -> list[int]:
    columns = texts_by_column(path)
    if len(columns) > 1:
        raise DataError(
            f"lengths_of: {path} has several columns of strings, {', '.join(columns)}: give a txt file with a text a "
            "line, a table with one such column, or a task by its name"
        )
    (texts,) = columns.values()
    tokens = load_tokenizer(model)(texts, truncation=False, padding=False)["input_ids"]
    return [len(ids) for ids in tokens]


def _in_task(name: str, model: str) -> list[int]:
    known = load_plugins().names("tasks")
    if name not in known:
        hint = f"{nearest(name, known)}`prune tasks` lists them"
        raise RecipeError(f"lengths_of: no file is at {name}, and no task is called that; {hint}")
    features = make_job(validated({"model": model, "task": name}, "lengths_of")).task.validation()
    if "input_ids" not in features.column_names:
        raise DataError(
            f"lengths_of: the features of {name} have no input_ids, only {', '.join(features.column_names)}"
        )
    return [len(ids) for ids in features["input_ids"]]


def _with_sizes(row: Row, sizes: dict[str, int]) -> Row:
    return replace(row, sides=tuple(replace(side, file_bytes=sizes.get(side.name)) for side in row.sides))
