"""What `prune export` hands to the core, and what it prints of its answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prune_core.recipe import MeasureSection, PluginsSection, TaskSection

FACTS = {
    "format": "onnx",
    "inputs": {"input_ids": {"dtype": "int64", "axes": ["batch", "length"]}},
    "outputs": ["logits"],
    "parity": {"difference": 2e-7, "tolerance": 1e-4, "samples": 16},
    "files": {"model.onnx": 2_000_000},
    "int8": {"kind": "dynamic", "float32": {"accuracy": 0.875}, "int8": {"accuracy": 0.75}},
    "notes": ["int8 rounds"],
    "speed": {
        "batch_size": 1,
        "length": 64,
        "machine": {"threads": 2},
        "model": {"p50": 0.002},
        "baseline": {"p50": 0.004},
        "speedup": 2.0,
        "speedup_low": 1.9,
        "speedup_high": 2.1,
        "significant": True,
    },
}


@dataclass(frozen=True)
class Wanted:
    format: str
    int8: str | None
    baseline: str | None
    task: TaskSection | None
    measure: MeasureSection
    plugins: PluginsSection


@pytest.fixture
def calls(stand_in: Callable) -> list[Any]:
    found: list[Any] = []

    def export_folder(model: str, output: Path, wanted: Wanted) -> dict[str, Any]:
        found.append((model, output, wanted))
        return FACTS

    stand_in("prune_core.exporting", Wanted=Wanted, export_folder=export_folder)
    return found


def test_hands_on_what_is_wanted(prune: Callable, calls: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "dev.csv"
    file.touch()
    flags = [
        "--int8",
        "dynamic",
        "--baseline",
        "./dense",
        "--batch-size",
        1,
        "--length",
        64,
        "--column",
        "text=sentence",
    ]
    data = ["--task", "text-classification", "--validation-file", file, "--set", "measure.rounds=5"]
    result = prune("export", "runs/first/model", "--format", "onnx", "--output", tmp_path / "out", *flags, *data)
    assert result.code == 0, result.err
    model, output, wanted = calls[0]
    assert (model, output, wanted.format) == ("runs/first/model", tmp_path / "out", "onnx")
    assert (wanted.int8, wanted.baseline) == ("dynamic", "./dense")
    assert (wanted.measure.batch_size, wanted.measure.length, wanted.measure.rounds) == (1, 64, 5)
    assert (wanted.task.name, wanted.task.columns) == ("text-classification", {"text": "sentence"})
    for part in (
        "batch x length",
        "logits",
        "2e-07",
        "2.00x (1.90 to 2.10)",
        "int8: int8.accuracy",
        "0.75",
        "int8 rounds",
    ):
        assert part in result.out


def test_no_speed_up_is_called_none(prune: Callable, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACTS["speed"], "speedup_low", 0.9)
    result = prune("export", "m", "--format", "onnx", "--output", "o")
    assert "no significant difference (0.90 to 2.10)" in result.out


def test_prints_json(prune: Callable, calls: list[Any]) -> None:
    assert json.loads(prune("export", "m", "--format", "onnx", "--output", "o", "--json").out) == FACTS
    assert calls[0][2].task is None
    assert "length" not in calls[0][2].measure.model_fields_set


def test_a_task_may_be_set_and_data_need_one(prune: Callable, calls: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "dev.csv"
    file.touch()
    flags = ["m", "--format", "onnx", "--output", "o", "--validation-file", file]
    assert prune("export", *flags, "--set", "task.name=text-classification").code == 0
    assert (calls[0][2].task.name, calls[0][2].task.validation_file) == ("text-classification", file)
    result = prune("export", *flags, "--column", "text=sentence")
    assert result.code == 3
    assert "task.name (--task) missing beside task.columns, task.validation_file; give it" in " ".join(result.errors)
    assert len(calls) == 1


def test_an_unknown_format_is_a_wrong_command_line(prune: Callable) -> None:
    result = prune("export", "m", "--format", "tflite", "--output", "o")
    assert result.code == 2
    assert "onnx" in result.err


def test_a_wrong_setting_is_named_before_a_model_is_read(prune: Callable) -> None:
    result = prune("export", "no-such-model", "--format", "onnx", "--output", "o", "--rounds", "0")
    assert result.code == 3
    assert "measure.rounds" in result.err


def test_without_a_runtime_the_extra_is_named(prune: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("prune_core.exporting.formats.find_spec", lambda name: None)
    result = prune("export", "no-such-model", "--format", "openvino", "--output", tmp_path / "out")
    assert result.code == 13
    assert result.errors == [
        "prune: error: format openvino needs openvino, onnx, onnxscript, found no such package: "
        "pip install prune-core[openvino]"
    ]
