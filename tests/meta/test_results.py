"""The pages of results say what the files hold, and what measures them can be typed."""

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from docs.bars_page import ALL, Bar, Figure, bars
from docs.networks_page import networks
from docs.readme_results import table

from prune_cli.grids import grid_of
from prune_cli.verbs import app
from tests.meta.tree import ROOT

RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def benchmark(monkeypatch):
    """A script of benchmarks, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield import_module
    for name in ("speed", "report"):
        sys.modules.pop(name, None)


def network(dtype, speedup, **setting):
    """A row as `prune bench --networks` writes it."""
    against = {"name": "bert-base", "speedup": speedup, "flop_limit": 4.0, "share": speedup / 4}
    against |= {"speedup_low": speedup - 0.1, "speedup_high": speedup + 0.1}
    settings = {"batch_size": 128, "length": 384, "runtime": "torch", "attention": None} | setting
    return {"name": "squadv1 #4", "dtype": dtype, "published_speedup": 1.84, "against": [against], **settings}


def measured_on_cuda(folder, rows, name="published_networks_cuda"):
    machine = {"device": "NVIDIA H100", "cpu": "a CPU", "threads": 8, "torch": "2.13.0", "wait_policy": None}
    (folder / f"{name}.json").write_text(json.dumps({"grid": {"rounds": 11}, "machine": machine, "rows": rows}))


def test_settings_of_networks_do_not_overwrite_each_other(tmp_path):
    speeds = {"float32": 2.0, "tf32": 2.5, "bfloat16": 3.0}
    measured_on_cuda(tmp_path, [network(dtype, speed) for dtype, speed in speeds.items()])
    graphs = [network("float32", 1.5, runtime="cuda-graphs", length=length) for length in (64, 128)]
    measured_on_cuda(tmp_path, graphs, "published_networks_cuda_one")
    page = networks(tmp_path)
    assert "| network | FLOP limit | float32 | tf32 | bfloat16 | published |" in page
    assert "| squadv1 #4 | 4.00x | 2.00x (0.50) | 2.50x (0.62) | 3.00x (0.75) | 1.84x |" in page
    assert "On NVIDIA H100: torch, batch 128, length 384; 11 rounds." in page
    assert "| network | FLOP limit | length 64 | length 128 | published |" in page
    assert "On NVIDIA H100: cuda-graphs, float32, batch 128; 11 rounds." in page


@pytest.mark.parametrize(
    ("limits", "figure", "verdict"),
    [
        ({"most": 1.5}, Figure(1.2, 1.1, 1.5), "**reached**"),
        ({"most": 1.5}, Figure(1.5, 1.1, 1.6), "reached by the median"),
        ({"most": 1.5}, Figure(1.75, 1.1, 1.8), "missed by 0.250"),
        ({"least": 0.9}, Figure(0.95, 0.9, 1.0), "**reached**"),
        ({"least": 0.9}, Figure(0.95, 0.8, 1.0), "reached by the median"),
        ({"least": 0.9}, Figure(0.88, 0.8, 1.0), "missed by 0.020"),
    ],
)
def test_the_bad_end_of_the_interval_decides(limits, figure, verdict):
    assert Bar("a bar", "file", lambda found: figure, **limits).verdict(figure) == verdict


def test_bars_are_read_from_their_files(tmp_path):
    rows = [network(dtype, speed) for dtype, speed in (("float32", 1.8), ("float32", 2.5), ("tf32", 2.5))]
    measured_on_cuda(tmp_path, rows)
    (tmp_path / "help_time.json").write_text(json.dumps({"ratio": 1.2, "interval": [1.1, 1.3]}))
    lines = bars(tmp_path).splitlines()
    (line,) = [line for line in lines if "--help" in line]
    assert line.endswith("| 1.200 | 1.100 to 1.300 | reached by the median | help_time.json |")
    found = {name: line for name in ("float32", "tf32", "bfloat16") for line in lines if f"384, {name}:" in line}
    assert "| 0.978 | 0.924 to 1.033 | missed by 0.022 |" in found["float32"]
    assert "| **reached** |" in found["tf32"]
    assert "| not measured |" in found["bfloat16"]
    counts = [int(line.split()[3]) for line in lines if line.startswith("Not measured: the")]
    assert sum(counts) + len([line for line in lines if line.endswith(".json |")]) == len(ALL)
    assert "| help_time.json | not recorded | | | | |" in lines
    assert "| published_networks_cuda.json | NVIDIA H100 | 8 | 2.13.0 | as the system does | not set |" in lines


def test_every_file_of_bars_that_is_there_can_be_read():
    page = bars(RESULTS)
    for name in {bar.file for bar in ALL}:
        if (RESULTS / f"{name}.json").is_file():
            assert any(f"| {name}.json |" in line and "not measured" not in line for line in page.splitlines()), name
        else:
            assert f"bars of {name}.json." in page


def test_the_table_of_the_readme_is_made_of_means():
    shared = {"asked": 0.5, "steps": 1200, "dense": 90.0, "megabytes": 60.0, "dense_megabytes": 90.9}
    rows = [
        {"strategy": "hybrid", "seed": 0, "pruned": 88.0, "speedup": 2.0, **shared},
        {"strategy": "hybrid", "seed": 1, "pruned": 89.0, "speedup": 2.5, **shared},
        {"strategy": "block", "seed": 0, "pruned": 87.5, "speedup": 1.5, **shared},
    ]
    text = table({"batch_size": 8, "length": 128, "machine": {"threads": 2}, "rows": rows})
    assert "dense accuracy 90.00" in text
    assert text.endswith(
        "| hybrid, mean of 2 seeds | 0.5 | 1200 | 88.50 | 2.25x | 60.0 |\n"
        "| block | 0.5 | 1200 | 87.50 | 1.50x | 60.0 |\n"
    )


def test_every_file_of_results_is_told_of(benchmark):
    """Those that are there, and those that would be written."""
    written = {f"{name}.json" for names in benchmark("speed").LISTS.values() for name in names}
    there = {path.name for path in RESULTS.iterdir()} - {"README.md"}
    text = (RESULTS / "README.md").read_text()
    assert [name for name in written | there if name not in text] == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [True, False])
def test_what_measures_can_be_typed(device, quick, benchmark):
    """Scripts that are there, with flags that they have; verbs of prune with theirs, and values that they take."""
    speed = benchmark("speed")
    for name in speed.LISTS[device]:
        words = speed.command(name, device, quick, Path("work"))[1:]
        first, *rest = words[2:] if words[0] == "-m" else words
        if first.endswith(".py"):
            flags = {word for word in rest if word.startswith("--")} | {"--output"}
            assert flags <= set(re.findall(r"--[a-z-]+", Path(first).read_text())), shlex.join(words)
        else:
            given = typer.main.get_command(app).commands[first].make_context(first, rest).params
            assert given["device"] == device
            assert given["json"], f"{name} would print a table"
            if first == "bench":
                lists = ("batch_sizes", "lengths", "attention", "dtypes", "runtimes")
                single = ("lengths_of", "new_tokens", "rounds", "threads")
                grid_of({name: given[name] for name in lists}, {name: given[name] for name in single})


def test_what_fails_leaves_the_file_as_it_was(tmp_path, benchmark):
    keep = benchmark("report").keep
    keep(tmp_path / "found.json", sys.executable, "-c", "print('{}')")
    for wrong in ("print('no json')", "print('{}'); raise SystemExit(1)"):
        with pytest.raises((ValueError, subprocess.CalledProcessError)):
            keep(tmp_path / "found.json", sys.executable, "-c", wrong)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"found.json": "{}\n"}
