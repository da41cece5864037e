"""The linter sees every module: an exclusion meant for results once took a package of the same name along."""

import subprocess
import sys
from pathlib import Path

from tests.meta.tree import modules


def test_every_module_is_linted() -> None:
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--show-files", "packages"]
    seen = subprocess.run(ruff, capture_output=True, text=True, check=True).stdout.split()
    assert {module.path.resolve() for module in modules()} <= {Path(path).resolve() for path in seen}
