"""What the user sees of an error: one line, the right exit code, and a traceback only on demand."""

import errno

import typer

from prune_cli.exit_codes import SYSTEM, exit_code
from prune_core.distributed.processes import is_main, rank

_FULL = ("No space left on device", "unexpected pos")
"""What safetensors says, and torch, whose file is shorter than what it wrote."""


def report(error: Exception, debug: bool) -> int:
    """Print the error on stderr and return the exit code. `debug` adds the traceback."""
    if debug:
        _traceback(error)
    usage = getattr(error, "format_message", None)  # typer carries a click of its own: known by what it can do
    if usage is not None:
        _say(f"{_flat(usage())} (see {_verb(error)} --help)")
        return int(getattr(error, "exit_code", 2))
    for line in _lines(error):
        _say(line)
    return SYSTEM if _disk_full(error) else exit_code(error)


def _lines(error: Exception) -> list[str]:
    from prune_core.errors import ElsewhereError, PruneError, RecipeError

    if _disk_full(error):
        return [
            f"the disk is full{_at(error)}; what was saved before is intact: make room, then `prune run RUN --resume`"
        ]
    if isinstance(error, ElsewhereError) and not is_main():  # once is enough
        return []
    if isinstance(error, RecipeError):  # one line a wrong field
        return str(error).splitlines()
    if isinstance(error, PruneError):
        return [_flat(str(error))]
    if isinstance(error, OSError):
        return [f"{error.strerror or _flat(str(error))}{_at(error)}"]
    return [f"unexpected {type(error).__name__}: {_flat(str(error))}; run again with --debug for the traceback"]


def _disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind the error; torch and safetensors hide it in errors of their own."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or any(sign in str(error) for sign in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _at(error: Exception) -> str:
    filename = getattr(error, "filename", None)
    return f": {filename}" if filename else ""


def _verb(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "prune"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _say(line: str) -> None:
    process = "" if is_main() else f"process {rank()}: "
    typer.echo(f"prune: error: {process}{line}", err=True)


def _traceback(error: Exception) -> None:
    import traceback

    typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
