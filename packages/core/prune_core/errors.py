"""One family of errors: a single line saying what was wrong, where, what was found and what to do."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class PruneError(Exception):
    """Base of every error that a user can mend; the message is one line and complete on its own."""


class RecipeError(PruneError):
    """A recipe or a flag is wrong; one line a field when several are."""


class PluginError(PruneError):
    """A strategy, compactor, task or architecture could not be found or loaded."""


class StructureError(PruneError):
    """The model has no unit that can be pruned, or none of the shape that was asked for."""


class MaskError(PruneError):
    """A mask, or a file of masks, does not fit the model or is damaged."""


class ModelError(PruneError):
    """A model folder cannot be read, or does not hold what its configuration says."""


class DataError(PruneError):
    """A data file, a column or a label is missing or not what the task needs."""


class RunError(PruneError):
    """The folder of a run cannot be used as asked."""


class VerificationError(PruneError):
    """The masked, the compact and the reloaded model do not compute the same function."""


class TrainingError(PruneError):
    """Training cannot go on."""


class ExportError(PruneError):
    """A model cannot be exported as asked: its graph, a format, or a runtime that is missing or cannot read a file."""


class ElsewhereError(PruneError):
    """Another process of this run failed, and says itself why."""


@contextmanager
def foreign(
    kind: type[PruneError], what: str, passing: tuple[type[Exception], ...] = (PruneError, OSError)
) -> Iterator[None]:
    """Whatever code of others raises in here is a `kind` that says "`what`: ValueError: its message", on one line.

    But for those that are `passing`: errors of ours, and of the disk, say themselves what is wrong.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        raise kind(f"{what}: {named(error)}") from error


def named(error: BaseException) -> str:
    """An error on one line as Python shows it, such as "ValueError: its message"."""
    name, text = type(error).__name__, brief(error)
    return text if text.startswith(name) else f"{name}: {text}"


def brief(error: BaseException, limit: int = 240) -> str:
    """The message of an error on one line, cut at `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"KeyError: {text}" if isinstance(error, KeyError) else text
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'hybrid'? " for a misspelt name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""


def listed(names: Sequence[object], limit: int = 10) -> str:
    """Names on one line, the first of them and how many there are where they are more than `limit`."""
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
