"""A strategy of somebody else goes through a whole run, beside compactors of others that are broken."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.meta.inputs import write_inputs
from tests.plugins.conftest import write_distribution

Prune = Callable[..., subprocess.CompletedProcess[str]]

COMPACTOR = """
@hookimpl
def prune_compactors():
    return [CompactorSpec({name!r}, "of somebody else", {target!r})]
"""
SKIPPED = {
    "lost": "no_such_module_anywhere:Compactor cannot be imported: ModuleNotFoundError",
    "twin": "several owners, prune-one and prune-two",
}
RIVAL = """
from dataclasses import replace
from prune_core.architectures.bert import BERT
@hookimpl
def prune_architectures():
    return [replace(BERT, stacks=(replace(BERT.stacks[0], layers="no.such.layer"),))]
"""
"""Names of the broken compactors -> why they cannot be used."""


@dataclass(frozen=True)
class Place:
    """A folder with inputs and a finished run, the processes that it was made by, and how to start another there."""

    folder: Path
    arguments: list[str | Path]
    done: subprocess.CompletedProcess[str]
    environment: dict[str, str]

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def place(prune: Prune, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = write_inputs(tmp_path_factory.mktemp("run"))
    site = folder / "broken"
    write_distribution(site, "prune-lost", COMPACTOR.format(name="lost", target="no_such_module_anywhere:Compactor"))
    for owner in ("prune-one", "prune-two"):
        target = "prune_core.compaction.dense:DenseCompactor"
        write_distribution(site, owner, COMPACTOR.format(name="twin", target=target))
    environment = {
        "PYTHONPATH": os.pathsep.join([str(installed), str(site)]),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
    }
    data = ["--train-file", folder / "train.csv", "--validation-file", folder / "validation.csv"]
    model = ["--model", folder / "my-bert", "--task", "text-classification", "--device", "cpu"]
    arguments = [*model, *data, "--density", "0.5", "--max-steps", "6"]
    done = prune("run", "--strategy", "magnitude", "--output", folder / "run", *arguments, **environment)
    return Place(folder, arguments, done, environment)


def test_a_strategy_of_somebody_else_runs_from_end_to_end(place: Place) -> None:
    assert place.done.returncode == 0, place.done.stderr
    manifest = json.loads((place.run / "manifest.json").read_text())
    assert manifest["strategy"] == "magnitude"
    assert manifest["density"]["reached"] == pytest.approx(0.5, abs=0.05)
    assert manifest["verification"]["passed"] is True
    assert manifest["versions"]["prune-magnitude"] == "1.0"


def test_a_run_warns_of_the_broken_compactors_and_takes_ours(place: Place) -> None:
    _expect_warnings(place.done)


def test_so_does_prune_compact(place: Place, prune: Prune) -> None:
    output = place.folder / "compact"
    arguments = [place.run / "masked", place.run / "masks.safetensors", "--output", output]
    done = prune("compact", *arguments, **place.environment)
    assert done.returncode == 0, done.stderr
    assert (output / "config.json").is_file()
    _expect_warnings(done)


def test_a_rival_of_our_family_can_be_disabled_for_one_run(place: Place, prune: Prune) -> None:
    site = place.folder / "rival"
    write_distribution(site, "prune-rival", RIVAL)
    environment = place.environment | {"PYTHONPATH": f"{place.environment['PYTHONPATH']}{os.pathsep}{site}"}
    refused = prune("run", *place.arguments, "--output", place.folder / "refused", **environment)
    assert refused.returncode != 0
    assert "several owners, prune-core and prune-rival" in refused.stderr
    output = place.folder / "settled"
    disabled = ["--set", "plugins.disabled=[prune-rival]", "--strategy", "structured"]
    done = prune("run", *place.arguments, *disabled, "--output", output, **environment)
    assert done.returncode == 0, done.stderr
    verified = prune("verify", output, **environment)
    assert verified.returncode == 0, verified.stderr


def _expect_warnings(done: subprocess.CompletedProcess[str]) -> None:
    said = " ".join(done.stderr.split())
    for name, reason in SKIPPED.items():
        assert f"the compactor {name} was skipped: " in said, done.stderr
        assert reason in said, done.stderr
