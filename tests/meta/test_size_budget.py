"""Functions and files stay small enough to read."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.meta.tree import ROOT

LINES_A_FUNCTION, LINES_A_FILE, PARAMETERS = 60, 400, 5
FOLDERS = ("packages", "tests", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def parameters(function: Function) -> int:
    found = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(found) - (found[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_within_budget(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LINES_A_FILE, f"{lines} lines, {LINES_A_FILE} at most"
    for function in functions(path):
        where = f"{path}:{function.lineno} {function.name}"
        assert length(function) <= LINES_A_FUNCTION, f"{where}: {length(function)} lines, {LINES_A_FUNCTION} at most"
        if not {"commands", "tests"} & set(path.parts):  # an option is a parameter, and so is a fixture
            assert parameters(function) <= PARAMETERS, f"{where}: {parameters(function)} parameters"


def test_functions_are_short() -> None:
    lengths = [length(function) for path in FILES if "packages" in path.parts for function in functions(path)]
    assert median(lengths) <= 8
    assert quantiles(lengths, n=20)[-1] < 40
