"""Tables of examples: read from files or the hub, their columns found by role, their faults named by file and row."""

import csv
import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from prune_core.errors import DataError, brief, nearest
from prune_core.logs import at_level
from prune_core.recipe import TaskSection
from prune_core.tasks.articles import is_of_articles, questions

logger = logging.getLogger(__name__)

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    # "NA" or "null" may well be a text or a label: only the empty cell is nothing
    # in one piece, or the first rows would decide on the types of all
    ".csv": ("csv", {"keep_default_na": False, "na_values": [""], "chunksize": None}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    # without a batch size, a file of no rows fails as one of no use
    ".parquet": ("parquet", {"batch_size": 1000}),
}
STRINGS = ("string", "large_string", "string_view")
"""Types of columns that hold text."""

_HELD_OUT = 0.1
_LABEL_COLUMNS = ("label", "labels")
_FAILURES = (DatasetGenerationError, DatasetNotFoundError, OSError, ValueError, TypeError, KeyError)


@dataclass(frozen=True)
class Table:
    """Rows, what they are called in messages, and the folder that relative paths in them start from."""

    rows: Dataset
    source: str
    folder: Path | None = None

    @property
    def columns(self) -> list[str]:
        return list(self.rows.column_names)

    @property
    def features(self) -> Features:
        return self.rows.features

    def require(self, role: str, column: str) -> str:
        """`column` where it is there; DataError with the nearest name and all columns where it is not."""
        if column not in self.columns:
            raise DataError(
                f"{self.source}: no column {column!r} for {role}; {nearest(column, self.columns)}"
                f"found {', '.join(self.columns)}; name it with --column {role}=NAME"
            )
        return column

    def arrow(self, column: str) -> pa.ChunkedArray:
        """All values of a column."""
        return self.rows.with_format("arrow")[:][column]

    def holds_lists(self, column: str) -> bool:
        """Whether each row of a column is a list."""
        return hasattr(self.features[column], "feature")

    def element(self, column: str) -> Any:
        """The type of the values in a column, single ones or in lists."""
        feature = self.features[column]
        return getattr(feature, "feature", feature)

    def refuse_nulls(self, role: str, column: str) -> None:
        """DataError naming the first row in which `column` holds nothing, or a list with a hole."""
        data = self.arrow(column)
        row = pc.index(pc.is_null(data), True).as_py()
        if row < 0 and self.holds_lists(column):
            hole = pc.index(pc.is_null(pc.list_flatten(data)), True).as_py()
            row = hole if hole < 0 else pc.list_parent_indices(data.combine_chunks())[hole].as_py()
        if row >= 0:
            raise DataError(f"{self.source}: no {role} in row {row + 1} (column {column!r}); fill or remove the row")

    def first(self, count: int | None) -> "Table":
        """At most `count` rows."""
        rows = self.rows if count is None else self.rows.select(range(min(count, len(self.rows))))
        return Table(rows, self.source, self.folder)


@dataclass(frozen=True)
class Tables:
    """What a task was given: either of train and validation may be absent, not both. `further`: by name."""

    train: Table | None
    validation: Table | None
    further: Mapping[str, Table] = field(default_factory=dict)

    def present(self) -> list[Table]:
        return [table for table in (self.train, self.validation, *self.further.values()) if table is not None]

    def map(self, function: Callable[[Table], Table]) -> "Tables":
        """The same with `function` applied to each table that is there."""
        further = {name: function(table) for name, table in self.further.items()}
        return Tables(self.train and function(self.train), self.validation and function(self.validation), further)


def read_tables(section: TaskSection) -> Tables:
    """Read the files or the hub data set of a recipe.

    DataError, naming what is wrong with which file, where there is neither, or one cannot be read or is empty.
    """
    if section.dataset:
        return _from_hub(section, section.dataset)
    if not section.train_file and not section.validation_file:
        raise DataError(
            "no data: name files (--train-file, --validation-file), or a hub data set (--set task.dataset=NAME)"
        )
    train = file_table(section.train_file) if section.train_file else None
    validation = file_table(section.validation_file) if section.validation_file else None
    return Tables(
        train, validation, {name: file_table(Path(file)) for name, file in section.further_validation.items()}
    )


def hold_out(tables: Tables) -> Tables:
    """The same with a tenth of the training rows (seed 0) as validation where there was none, and a log line on it."""
    train = tables.train
    if train is None or tables.validation is not None:
        return tables
    if len(train.rows) < 2:
        raise DataError(f"{train.source}: one row cannot be parted in training and validation; add --validation-file")
    parts = train.rows.train_test_split(test_size=max(1, round(len(train.rows) * _HELD_OUT)), seed=0)
    logger.warning("%s: no validation data, %d rows are held out for it", train.source, len(parts["test"]))
    return Tables(
        Table(parts["train"], train.source, train.folder),
        Table(parts["test"], f"{train.source} (held-out tenth)", train.folder),
        tables.further,
    )


def check_roles(columns: dict[str, str], roles: tuple[str, ...]) -> None:
    """DataError for a `columns` entry whose role the task does not have."""
    for role in columns:
        if role not in roles:
            raise DataError(
                f"task.columns: unknown role {role!r}; {nearest(role, roles)}the task's roles are {', '.join(roles)}"
            )


def label_column(table: Table, columns: dict[str, str]) -> str:
    """The column of the label: the one named, else "label" or "labels"; DataError listing the columns."""
    return role_column(table, "label", columns, _LABEL_COLUMNS)


def role_column(table: Table, role: str, columns: dict[str, str], usual: Sequence[str]) -> str:
    """The column of a role: the one named, else the first of its usual names; DataError listing the columns."""
    if role in columns:
        return table.require(role, columns[role])
    for name in usual:
        if name in table.columns:
            return name
    raise DataError(
        f"{table.source}: no column {' or '.join(map(repr, usual))}; found {', '.join(table.columns)}; "
        f"name it with --column {role}=NAME"
    )


def file_table(path: Path) -> Table:
    """The rows of a csv, json, jsonl or parquet file, or the images in a folder with a folder for each label.

    DataError where there is none, it is damaged or empty.
    """
    if path.is_dir():
        return _image_folder(path)
    if not path.is_file():
        raise DataError(f"no data file at {path}")
    if path.suffix.lower() not in _READERS:
        raise DataError(f"{path}: unknown extension {path.suffix!r}; use one of {', '.join(_READERS)}")
    kind, options = _READERS[path.suffix.lower()]
    if kind == "csv":
        _check_header(path)
    if kind == "json" and is_of_articles(path):
        return _read(lambda: questions(path), str(path), path.parent)
    read = lambda: load_dataset(kind, data_files=str(path), split="train", **options)  # noqa: E731
    return _read(read, str(path), path.parent)


def _image_folder(folder: Path) -> Table:
    """Columns "image" and "label" of FOLDER/LABEL/*.png and the like; DataError where there are no such images.

    In a random order (seed 0): the first so many are to be of all labels.
    """
    labels = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not labels:
        raise DataError(f"{folder}: a folder of data holds a folder of images for each label, found none in it")
    files = [glob.escape(str(folder / label)) + "/*" for label in labels]
    read = lambda: load_dataset("imagefolder", data_files=files, split="train", drop_labels=False)  # noqa: E731
    table = _read(read, str(folder), folder)
    return replace(table, rows=table.rows.shuffle(seed=0))


def _check_header(path: Path) -> None:
    """DataError for what pandas makes the best of without a word: two columns of one name, of which it would rename the
    second, or fewer names than fields, when it would read the columns as those on their left.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows, columns, first = csv.reader(file), list[str](), list[str]()
        with suppress(csv.Error):  # a text may be longer than it takes; what is no csv file pandas says itself
            columns = next(rows, [])
            first = next(filter(None, rows), [])
    double = sorted({name for name in columns if columns.count(name) > 1})
    if double:
        raise DataError(f"{path}: {columns.count(double[0])} columns are called {double[0]!r}; rename or remove one")
    if len(first) > len(columns):
        raise DataError(
            f"{path}: the first row has {len(first)} fields, the header {len(columns)} ({', '.join(columns)}); "
            "name every column, an index too, and end no row with a comma"
        )


def _from_hub(section: TaskSection, name: str) -> Tables:
    title = f"{name} ({section.dataset_config})" if section.dataset_config else name

    def split(split: str) -> Table:
        local = _local(section, split)
        if local is not None:
            return file_table(local)
        read = lambda: load_dataset(name, section.dataset_config, split=split)  # noqa: E731
        return _read(read, f"{title}, split {split}", None)

    train = split(section.train_split)
    default = TaskSection.model_fields["validation_split"].default
    try:
        validation = split(section.validation_split)
    except DataError as error:
        if section.validation_split != default or "Unknown split" not in str(error):
            raise
        validation = None
    return Tables(train, validation, {name: split(found) for name, found in section.further_validation.items()})


def _local(section: TaskSection, split: str) -> Path | None:
    """The file under PRUNE_DATA that stands for a split of a hub data set, such as sst2-train.parquet.

    A file of validation stands for the test split of a data set that has no other to evaluate on, as CIFAR-10.
    """
    folder = os.environ.get("PRUNE_DATA")
    names = (section.dataset_config, (section.dataset or "").rpartition("/")[2])
    splits = [split, "validation"] if split == "test" == section.validation_split else [split]
    files = [f"{name}-{split}.parquet" for name in names if name for split in splits]
    paths = [Path(folder) / file for file in files] if folder else []
    return next((path for path in paths if path.is_file()), None)


def _read(read: Callable[[], Dataset], source: str, folder: Path | None) -> Table:
    try:
        with at_level("datasets", logging.CRITICAL):  # it logs what it raises; the error says it already
            rows = read()
    except _FAILURES as error:
        if "corresponds to no data" in str(error):
            raise DataError(f"{source}: it holds no rows") from error
        raise DataError(f"{source} cannot be read: {_reason(_root(error))}") from error
    if not len(rows):
        raise DataError(f"{source}: it holds no rows")
    return Table(rows, source, folder)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start}); save it as UTF-8"
    return brief(error)


def _root(error: Exception) -> Exception:
    """The library's own errors only say that something failed: the reason is the error below."""
    while isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
