"""A plugin of somebody else, built and installed by pip, is a strategy like ours."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.meta.tree import ROOT
from tests.plugins.conftest import THIRD_PARTY

Prune = Callable[..., subprocess.CompletedProcess[str]]

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_is_listed_with_its_distribution(prune: Prune) -> None:
    found = json.loads(prune("plugins", "--json", "--strict").stdout)
    assert ("prune-magnitude", "strategies", "magnitude") in {
        (offer["distribution"], offer["kind"], offer["name"]) for offer in found["offers"]
    }
    assert found["not_loaded"] == []


def test_documents_its_own_fields(prune: Prune) -> None:
    fields = {field["name"]: field for field in json.loads(prune("strategies", "magnitude", "--json").stdout)["fields"]}
    assert fields["attention"]["description"] == "Prune heads as well as neurons."
    assert fields["binarizer"]["default"] == "magnitude"


def test_is_usable_as_a_strategy(prune: Prune) -> None:
    done = prune("run", "--strategy", "magnitude", "--density", "0.5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "magnitude" in done.stdout


def test_its_fields_are_checked_before_anything_runs(prune: Prune) -> None:
    done = prune("run", "--strategy", "magnitude", "--set", "strategy.atention=false", "--dry-run")
    assert done.returncode == 3
    assert "strategy.atention" in done.stderr
    assert "did you mean 'attention'" in done.stderr


def test_is_gone_when_it_is_disabled_and_nothing_else_changes(prune: Prune) -> None:
    with_it = json.loads(prune("plugins", "--json").stdout)["offers"]
    without = json.loads(prune("plugins", "--json", PRUNE_DISABLE="prune_magnitude").stdout)["offers"]
    assert without == [offer for offer in with_it if offer["distribution"] != "prune-magnitude"]
    done = prune("run", "--strategy", "magnitude", "--dry-run", PRUNE_DISABLE="prune-magnitude")
    assert done.returncode == 4


def test_is_gone_when_it_is_not_installed(prune: Prune) -> None:
    done = prune("run", "--strategy", "magnitude", "--dry-run", PYTHONPATH="")
    assert done.returncode == 4
    assert "unknown strategy 'magnitude'" in done.stderr


def test_passes_the_published_contract(installed: Path, tmp_path: Path) -> None:
    """With the very test file that docs/plugins.md shows."""
    (suite,) = [block for block in _blocks("python") if "class TestMagnitude" in block]
    (tmp_path / "test_magnitude.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    command += ["-k", "bert and not distilbert"]
    variables = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed", done.stdout)


def test_is_the_plugin_of_the_documentation() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (THIRD_PARTY / "prune_magnitude").glob("*.py")}
    assert files.pop("__init__.py") == "", "docs/plugins.md says that it is empty"
    sources = list(files.values())
    for name, source in files.items():
        assert f"`prune_magnitude/{name}`" in PAGE
        assert source in _blocks("python")
    assert (THIRD_PARTY / "pyproject.toml").read_text(encoding="utf-8") in _blocks("toml")
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    assert len(lines) <= 30, "docs/plugins.md promises thirty lines"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
