"""The commands of the README, run as written, on a tiny model and a few sentences."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.inputs import write_inputs
from tests.meta.test_readme import README, commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README takes for granted."""
    return write_inputs(tmp_path_factory.mktemp("readme"))


@pytest.mark.timeout(1200)
def test_commands_run_in_order(folder: Path) -> None:
    for words in commands(README):
        done = _prune(folder, *words)
        assert done.returncode == 0, f"prune {' '.join(words)}: {done.stderr}"
    assert (folder / "runs" / "sentiment" / "model" / "config.json").is_file()


def _prune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    command = [str(Path(sys.executable).with_name("prune")), *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
