"""The command line called in this process, fake distributions, and stand-ins for the modules that need torch."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prune_cli.app import main
from prune_core.plugins import load_plugins


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def prune(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`prune` with these arguments, through the console script's own function."""

    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def script() -> Callable[..., Result]:
    """The installed console script, as a process of its own."""
    path = Path(sysconfig.get_path("scripts")) / "prune"

    def call(*arguments: object, **environment: str) -> Result:
        command = [str(path), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(autouse=True)
def _fresh_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        monkeypatch.setenv(name, value)  # main sets it: no other test shall inherit it
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Puts a distribution with entry points and modules on the path; returns the folder it lies in."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: set[str] = set()

    def make(name: str, entry_points: dict[str, str], group: str = "prune.v1", **sources: str) -> Path:
        info = site / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        for module, source in sources.items():
            (site / f"{module}.py").write_text(source)
        modules.update(sources)
        return site

    yield make
    for module in modules:
        sys.modules.pop(module, None)


SAMPLE_PLUGIN = """
from prune_core.hookspecs import StrategySpec, hookimpl

@hookimpl
def prune_strategies():
    return [StrategySpec("sample", "a sample of a strategy", "sample_config:SampleConfig", "sample_config:Sample")]
"""

SAMPLE_CONFIG = """
from typing import Literal
from pydantic import BaseModel, Field
from prune_core.strategy import Strategy, StrategyConfig

class Inner(BaseModel):
    depth: int = Field(2, ge=1, description="How deep.")

class SampleConfig(StrategyConfig):
    density: float = Field(0.5, gt=0, le=1, description="Share that remains.")
    how: Literal["topk", "threshold"] = Field("topk", description="How scores become masks.")
    rate: float | None = Field(None, gt=0, description="Rate of the scores.")
    steps: int = Field(description="A field without a default.")
    inner: Inner = Field(Inner(), description="A section.")

class Sample(Strategy):
    pass
"""


@pytest.fixture
def sample(distribution: Callable[..., Path]) -> Path:
    """A distribution `prune-sample` with one strategy, whose configuration has every kind of field."""
    return distribution(
        "prune-sample", {"sample": "sample_plugin"}, sample_plugin=SAMPLE_PLUGIN, sample_config=SAMPLE_CONFIG
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces a module of the core by one that has these names only, so that no test here needs torch."""

    def replace(module: str, **names: Any) -> None:
        fake = ModuleType(module)
        fake.__dict__.update(names)
        monkeypatch.setitem(sys.modules, module, fake)

    return replace
