"""Distributions made up on sys.path, and one that is built and installed by pip."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prune_core.plugins import Plugins, load_plugins

THIRD_PARTY = Path(__file__).with_name("third_party")

HEADER = "from prune_core.hookspecs import CompactorSpec, StrategySpec, hookimpl\n"


def write_distribution(site: Path, name: str, source: str, group: str = "prune.v1") -> None:
    """Put a distribution with one entry point into a folder; its module has this source."""
    module = name.replace("-", "_")
    info = site / f"{module}-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nmain = {module}\n")
    (site / f"{module}.py").write_text(HEADER + source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on sys.path; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PRUNE_DISABLE", raising=False)
    load_plugins.cache_clear()
    yield tmp_path
    load_plugins.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def add(site: Path) -> Callable[..., None]:
    """Adds a distribution with one entry point, whose module has this source."""

    def make(name: str, source: str, group: str = "prune.v1") -> None:
        write_distribution(site, name, source, group)

    return make


@pytest.fixture
def load(site: Path) -> Callable[..., Plugins]:
    """`load_plugins`, past its cache."""

    def fresh(*disabled: str) -> Plugins:
        load_plugins.cache_clear()
        return load_plugins(disabled)

    return fresh


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third-party distribution, built into a wheel and installed by pip into a folder."""
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(THIRD_PARTY, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*pip, *options, str(folder / "source")], check=True)
    return folder / "site"


@pytest.fixture(scope="session")
def prune(installed: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The `prune` command in a process where the third-party distribution is installed."""

    def call(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("prune")), *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(installed), **environment}
        return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)

    return call
