"""One direction of imports, and nothing heavy on the way to `prune --help`."""

import subprocess
import sys

import pytest

from tests.meta.tree import PACKAGES, Import, Module, modules

LEVELS = (
    ("errors", "files", "fields", "architectures", "described", "transfer"),
    ("granularity",),
    ("masks",),
    ("linears",),
    ("structure",),
    ("strategy", "compactor", "task", "recipe"),
    ("kit",),
    ("hookspecs", "presets", "builtin"),
    ("plugins",),
)
"""Modules of prune_core from the bottom up; those that are not named stand beside training, testing on top."""
TOP = len(LEVELS)
STRATEGIES = sorted(set(PACKAGES) - {"prune_core", "prune_cli"})
HEAVY = ("torch", "transformers", "numpy", "datasets", "accelerate", "sklearn", "scipy", "pandas", "PIL")
LIGHT = [
    "prune_core",
    *(f"prune_core.{name}" for name in ("recipe", "plugins", "hookspecs", "strategy", "compactor", "task", "errors")),
    *("prune_core.builtin", "prune_core.runs.configuring", "prune_core.kit", "prune_core.kit.config", "prune_cli.app"),
    *(f"{name}.{part}" for name in STRATEGIES for part in ("plugin", "config")),
]

COMMANDS = [
    *("--help", "run --help", "plugins", "plugins --json"),
    *("strategies", "strategies hybrid", "tasks", "tasks sst2"),
]

every_module = pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)


def level(name: str) -> int:
    """How high a module of prune_core stands; -1 for the package itself."""
    parts = name.split(".")
    if len(parts) < 2 or name in ("prune_core.__version__", "prune_core.__getattr__"):
        return -1
    if parts[1] == "testing":
        return TOP + 1
    return next((index for index, names in enumerate(LEVELS) if parts[1] in names), TOP)


def ours(module: Module) -> list[Import]:
    return [found for found in module.imports() if found.name.partition(".")[0] in PACKAGES]


@every_module
def test_packages_depend_on_the_core_only(module: Module) -> None:
    for found in ours(module):
        package = found.name.partition(".")[0]
        allowed = {module.package, *(() if module.package == "prune_core" else ("prune_core",))}
        assert package in allowed, f"{module.path}:{found.line} imports {found.name}"


@pytest.mark.parametrize("module", [m for m in modules() if m.name.startswith("prune_core.")], ids=lambda m: m.name)
def test_imports_point_down(module: Module) -> None:
    for found in ours(module):
        assert level(found.name) <= level(module.name), f"{module.path}:{found.line} imports {found.name}"


BELOW_RUNS = (
    *("training", "tasks", "distillation", "rewriting", "distributed", "verification", "compaction", "sparse"),
    *("embeddings", "measure"),
)
"""Folders that a run is made of: none knows of runs, not even inside a function."""


@pytest.mark.parametrize(
    "module",
    [m for m in modules() if m.name.startswith(tuple(f"prune_core.{folder}" for folder in BELOW_RUNS))],
    ids=lambda m: m.name,
)
def test_what_runs_are_made_of_does_not_know_them(module: Module) -> None:
    for found in ours(module):
        assert not found.name.startswith("prune_core.runs"), f"{module.path}:{found.line} imports {found.name}"


@every_module
def test_a_strategy_and_a_compactor_never_meet(module: Module) -> None:
    removing = module.name.startswith("prune_core.compaction")
    deciding = module.name.startswith(("prune_core.kit", *STRATEGIES))
    for found in ours(module):
        if removing:
            assert not found.name.startswith(("prune_core.kit", "prune_core.strategy")), f"{module.name}: {found.name}"
        if deciding:
            assert not found.name.startswith(("prune_core.compact",)), f"{module.name}: {found.name}"


def test_no_cycle_when_modules_are_imported() -> None:
    names = {module.name for module in modules()}
    graph = {module.name: _eager_targets(module, names) for module in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_light_modules_import_nothing_heavy() -> None:
    code = f"import sys, importlib; [importlib.import_module(name) for name in {LIGHT!r}]"
    assert _heavy_after(code) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_lists_without_torch(command: str) -> None:
    code = f"""
import sys
sys.argv = ["prune", *{command.split()!r}]
from prune_cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert _heavy_after(code) == []


def _eager_targets(module: Module, names: set[str]) -> set[str]:
    """Modules that `module` imports at its top; names of a package's own submodules aside."""
    found = set()
    for one in ours(module):
        target = one.name if one.name in names else one.name.rpartition(".")[0]
        if one.eager and target != module.name:
            found.add(target)
    return found


def _heavy_after(code: str) -> list[str]:
    """Which heavy modules `code` imported, in a fresh interpreter."""
    tail = f"\nimport sys; print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1].split()[1:]
