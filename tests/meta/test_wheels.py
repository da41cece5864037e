"""What `make build` makes can be installed, alone and together, and a strategy can be uninstalled again."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.meta.tree import PACKAGES, projects

NAMES = sorted(project["name"] for project in projects().values())
STRATEGIES = sorted(set(NAMES) - {"prune-core", "prune-cli"})
LISTING = """
import json, prune_core, sys
from prune_core.plugins import load_plugins
found = load_plugins()
offers = [[offer.distribution, offer.kind, offer.spec.name] for offer in found.offers]
print(json.dumps({"file": prune_core.__file__, "offers": offers, "not_loaded": [str(one) for one in found.not_loaded]}))
"""

needs_links = pytest.mark.skipif(os.name != "posix", reason="dependencies are lent by symbolic links")


@dataclass(frozen=True)
class Environment:
    """An environment with our wheels alone; what they depend on is lent by the one that runs the tests."""

    folder: Path

    def call(self, *command: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PRUNE_DISABLE")}
        program = self.folder / "bin" / command[0]
        done = subprocess.run(
            [program, *command[1:]], cwd=self.folder, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def pip(self, verb: str, *arguments: str) -> None:
        self.call("python", "-m", "pip", "--quiet", "--disable-pip-version-check", verb, *arguments)

    def plugins(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("prune", "plugins", "--json"))
        return found


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution -> its wheel, built as the Makefile does."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES.values():
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
        done = subprocess.run([*build, str(package.parents[1])], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.partition("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is installed here but our own packages, whose entry points would be found."""
    folder = tmp_path_factory.mktemp("lent")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"_?prune_", path.name) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def environment(wheels: dict[str, Path], lent: Path, tmp_path: Path) -> Callable[..., Environment]:
    """An environment with these distributions installed by pip, from their wheels."""

    def make(*names: str) -> Environment:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
        made = Environment(tmp_path / "venv")
        (site,) = made.folder.glob("lib/python*/site-packages")
        (site / "lent.pth").write_text(f"{lent}\n")
        made.pip("install", "--no-deps", "--no-index", *(str(wheels[name]) for name in names))
        return made

    return make


def test_there_is_a_wheel_of_each(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == NAMES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_every_source_and_nothing_else(package: str, wheels: dict[str, Path]) -> None:
    folder = PACKAGES[package].parent
    sources = {str(path.relative_to(folder.parent)) for path in folder.rglob("*") if path.suffix in (".py", ".typed")}
    assert sources
    with zipfile.ZipFile(wheels[projects()[package]["name"]]) as wheel:
        names = {name for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        (licence,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
        assert wheel.read(licence)
    assert names == sources


@needs_links
def test_the_core_with_one_strategy_lists_exactly_that_one(environment: Callable[..., Environment]) -> None:
    made = environment("prune-core", "prune-block")
    found = json.loads(made.call("python", "-c", LISTING))
    assert Path(found["file"]).is_relative_to(made.folder), "it is the wheel that was imported"
    assert found["not_loaded"] == []
    assert {owner for owner, _, _ in found["offers"]} == {"prune-core", "prune-block"}
    assert [name for _, kind, name in found["offers"] if kind == "strategies"] == ["block"]


@needs_links
def test_an_uninstalled_strategy_is_gone_and_nothing_else_changes(environment: Callable[..., Environment]) -> None:
    made = environment(*NAMES)
    before = made.plugins()
    strategies = {offer["distribution"] for offer in before["offers"] if offer["kind"] == "strategies"}
    assert sorted(strategies) == STRATEGIES
    assert before["not_loaded"] == []
    made.pip("uninstall", "--yes", "prune-block")
    after = made.plugins()
    assert after == before | {"offers": [o for o in before["offers"] if o["distribution"] != "prune-block"]}
    assert after != before
