"""The sources of all packages, parsed: what the meta tests read."""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = {path.parent.name: path for path in sorted(ROOT.glob("packages/**/py.typed"))}
"""Import name -> its py.typed."""


@dataclass(frozen=True)
class Import:
    """One imported name. `eager`: when the module is imported; `typing`: for type checkers only."""

    name: str
    line: int
    eager: bool
    typing: bool


@dataclass(frozen=True)
class Module:
    """One source file of a package."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def imports(self) -> list[Import]:
        """Everything imported anywhere in it; `from a import b` counts as a.b, which may be a module or not."""
        return list(_imports(self.tree))


@lru_cache
def modules() -> tuple[Module, ...]:
    """Every module of every package."""
    found = []
    for folder in (path.parent for path in PACKAGES.values()):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found.append(Module(".".join(part for part in parts if part != "__init__"), path))
    return tuple(found)


@lru_cache
def projects() -> dict[str, dict[str, Any]]:
    """Import name -> the [project] table of its distribution."""
    files = {name: path.parents[1] / "pyproject.toml" for name, path in PACKAGES.items()}
    return {name: tomllib.loads(path.read_text(encoding="utf-8"))["project"] for name, path in files.items()}


def _imports(node: ast.AST, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            yield Import(f"{prefix}{alias.name}", node.lineno, not lazy and not typing, typing)
    lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    typing = typing or _for_types_only(node)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, lazy, typing)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
