"""What the other verbs hand to the core, and what they print of its answer."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prune_core.recipe import DepthSection, Recipe


@dataclass(frozen=True)
class Verification:
    masked_vs_compact: float
    compact_vs_reloaded: float
    tolerance: float = 1e-4
    samples: int = 64
    changed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.masked_vs_compact <= self.tolerance and self.compact_vs_reloaded == 0 and not self.changed

    @property
    def fault(self) -> str:
        return f"masked - compact {self.masked_vs_compact}, changed: {', '.join(self.changed)}"


def test_verify_says_what_differs_by_how_much(prune: Callable, stand_in: Callable) -> None:
    stand_in("prune_core.runs.verifying", verify_run=lambda run: Verification(2e-6, 0.0))
    result = prune("verify", "runs/first")
    assert result.code == 0
    for part in ("runs/first: verified on 64 inputs", "masked = compact", "2e-06", "compact = reloaded"):
        assert part in result.out
    found = json.loads(prune("verify", "runs/first", "--json").out)
    assert found["passed"] is True
    assert found["masked_vs_compact"] == 2e-6


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_verify_fails_where_they_differ(json_flag: list[str], prune: Callable, stand_in: Callable) -> None:
    stand_in("prune_core.runs.verifying", verify_run=lambda run: Verification(0.3, 0.0))
    result = prune("verify", "runs/first", *json_flag)
    assert result.code == 10
    assert len(result.errors) == 1
    assert "0.3" in result.err
    assert ("NOT" in result.out) if not json_flag else (json.loads(result.out)["passed"] is False)


def test_verify_fails_where_a_file_changed(prune: Callable, stand_in: Callable) -> None:
    changed = Verification(0.0, 0.0, changed=("model.safetensors",))
    stand_in("prune_core.runs.verifying", verify_run=lambda run: changed)
    result = prune("verify", "runs/first")
    assert result.code == 10
    assert "runs/first: " in result.err
    assert "model.safetensors" in result.err
    assert "files that changed" in result.out


def test_compact_hands_on_its_arguments(prune: Callable, stand_in: Callable, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def compact_folder(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return {"density": 0.3, "verification": {"samples": 4}}

    stand_in("prune_core.folders.compacting", compact_folder=compact_folder)
    result = prune("compact", "model", "masks.safetensors", "--output", tmp_path / "small", "--compactor", "dense")
    assert calls[0][:-1] == (Path("model"), Path("masks.safetensors"), tmp_path / "small")
    assert calls[0][-1] == Recipe(compactor="dense")
    assert "verification.samples" in result.out
    assert json.loads(prune("compact", "m", "k", "--output", "o", "--json").out)["density"] == 0.3
    assert prune("compact", "m", "--output", "o", "--uniform").code == 0
    assert calls[-1] == (Path("m"), None, Path("o"), Recipe(compactor="uniform"))
    assert prune("compact", "m", "--output", "o", "--drop-layers", "layer.1, layer.4", "--portable").code == 0
    assert calls[-1][-1] == Recipe(depth=DepthSection(drop=("layer.1", "layer.4")), portable=True)
    assert prune("compact", "m", "--output", "o", "--embedding-bits", "8").code == 0
    assert calls[-1][-1] == Recipe(embedding_bits=8)
    refused = prune("compact", "m", "--output", "o", "--embedding-bits", "8", "--portable")
    assert refused.code != 0
    assert "embedding_bits needs prune_core to load" in refused.err
    assert prune("compact", "m", "--output", "o", "--keep-layers", "encoder=6,decoder=3").code == 0
    assert calls[-1][-1].depth.keep == {"encoder": 6, "decoder": 3}
    assert prune("compact", "m", "--output", "o", "--align", "auto").code == 0
    assert calls[-1][-1] == Recipe(align="auto")
    assert prune("compact", "m", "--output", "o", "--align", "16").code == 0
    assert calls[-1][-1] == Recipe(align=16)
    assert prune("compact", "m", "--output", "o", "--align", "0").code != 0
    for flag, text in (
        ("--keep-layers", "six"),
        ("--keep-layers", ""),
        ("--keep-layers", "-1"),
        ("--drop-layers", "1,"),
    ):
        refused = prune("compact", "m", "--output", "o", flag, text)
        assert refused.code != 0
        expected = "such as encoder=6,decoder=3" if flag == "--keep-layers" else "layer.1,layer.4"
        assert f"{flag} {text!r}" in " ".join(refused.err.split())
        assert expected in " ".join(refused.err.split())
    result = prune("compact", "m", "--output", "o", "--uniform", "--compactor", "dense")
    assert result.code != 0
    assert "--uniform is short for --compactor uniform" in " ".join(result.err.split())


def test_evaluate_hands_on_a_task(prune: Callable, stand_in: Callable, tmp_path: Path) -> None:
    calls: list[Recipe] = []

    def evaluate_folder(recipe: Recipe) -> dict[str, float]:
        calls.append(recipe)
        return {"accuracy": 0.875}

    stand_in("prune_core.runs.run", evaluate_folder=evaluate_folder)
    file = tmp_path / "dev.csv"
    file.touch()
    flags = ["--task", "text-classification", "--validation-file", file, "--column", "text=sentence", "--device", "cpu"]
    settings = ["--set", "task.max_length=64", "--set", "plugins.disabled=[prune-block]"]
    result = prune("evaluate", "runs/first/model", *flags, "--batch-size", "16", *settings)
    assert "0.875" in result.out
    (recipe,) = calls
    task = recipe.task
    assert (recipe.model, recipe.training.eval_batch_size, recipe.device) == ("runs/first/model", 16, "cpu")
    assert recipe.plugins.disabled == ("prune-block",)
    assert (task.name, task.validation_file, task.columns) == ("text-classification", file, {"text": "sentence"})
    assert task.max_length == 64
    assert json.loads(prune("evaluate", "m", "--task", "text-classification", "--json").out) == {"accuracy": 0.875}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], 64),
        (["--task", "xsum"], 16),
        (["--task", "xsum", "--set", "training.eval_batch_size=4"], 4),
        (["--task", "xsum", "--batch-size", "8"], 8),
    ],
)
def test_evaluate_takes_the_batch_size_of_the_task(
    flags: list[str], expected: int, prune: Callable, stand_in: Callable
) -> None:
    found: list[int] = []
    figures = {"accuracy": 0.5}
    evaluate_folder = lambda recipe: found.append(recipe.training.eval_batch_size) or figures  # noqa: E731
    stand_in("prune_core.runs.run", evaluate_folder=evaluate_folder)
    assert prune("evaluate", "m", "--task", "text-classification", *flags).code == 0
    assert found == [expected]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny BERT, dense and compact: head 0 of layer 0 is gone, all of layer 1's, and half of every FFN."""
    import torch

    from prune_core.compaction import compact
    from prune_core.folders.loading import structure_of
    from prune_core.folders.saving import save_compact
    from prune_core.granularity import Head, Neuron
    from prune_core.masks import Mask, MaskSet
    from prune_core.testing.tiny import tiny_model

    root = tmp_path_factory.mktemp("models")
    model = tiny_model("bert")
    model.save_pretrained(root / "dense")
    structure, masks = structure_of(model), {}
    for unit in structure.attention:
        kept = torch.tensor([unit.key == "layer.0.attention"] * unit.heads)
        kept[0] = False
        for name, role in unit.linears().items():
            axis = "columns" if role == "attention_output" else "rows"
            masks[f"{name}.weight"] = Mask(Head(unit.head_size, axis), kept, (32, 32))
    for unit in structure.ffn:
        kept = torch.arange(unit.size) % 2 == 0
        masks[f"{unit.up}.weight"] = Mask(Neuron(1, "rows"), kept, (unit.size, 32))
        masks[f"{unit.down}.weight"] = Mask(Neuron(1, "columns"), kept, (32, unit.size))
    MaskSet(masks).bake(model)
    save_compact(compact(model, MaskSet(masks)), root / "compact")
    return {"dense": root / "dense", "compact": root / "compact"}


def _units(result: Any) -> dict[str, dict[str, Any]]:
    return {unit["unit"]: unit for unit in json.loads(result.out)["units"]}


def test_inspect_a_dense_model(prune: Callable, folders: dict[str, Path]) -> None:
    result = prune("inspect", folders["dense"], "--json")
    units = _units(result)
    assert list(units) == ["layer.0.attention", "layer.0.ffn", "layer.1.attention", "layer.1.ffn"]
    assert units["layer.0.attention"] == {
        "unit": "layer.0.attention",
        "kind": "heads",
        "left": 4,
        "of": 4,
        "head_size": 8,
        "weights": 4 * 32 * 32,
        "share": 0.25,
    }
    assert (units["layer.1.ffn"]["left"], units["layer.1.ffn"]["weights"]) == (64, 2 * 32 * 64)
    assert json.loads(result.out)["prunable_weights"] == 4 * 4 * 32 * 32


def test_inspect_a_compact_model(prune: Callable, folders: dict[str, Path]) -> None:
    units = _units(prune("inspect", folders["compact"], "--json"))
    left = {key: (unit["left"], unit["of"], unit["weights"]) for key, unit in units.items()}
    assert left == {
        "layer.0.attention": (3, 4, 4 * 24 * 32),
        "layer.0.ffn": (32, 64, 2 * 32 * 32),
        "layer.1.attention": (0, 4, 0),
        "layer.1.ffn": (32, 64, 2 * 32 * 32),
    }
    assert "layer.1.attention" in prune("inspect", folders["compact"]).out


def test_inspect_says_in_how_many_bits_word_embeddings_are(
    prune: Callable, folders: dict[str, Path], tmp_path: Path
) -> None:
    done = prune("compact", folders["dense"], "--output", tmp_path / "small", "--embedding-bits", "4")
    assert done.code == 0, done.err
    assert json.loads(prune("inspect", tmp_path / "small", "--json").out)["embedding_bits"] == 4
    assert "word embeddings in 4 bits" in prune("inspect", tmp_path / "small").out


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("marian", {"encoder.layer.0.attention": ("heads", 4), "decoder.layer.1.cross_attention": ("heads", 4)}),
        ("qwen2", {"layer.0.attention": ("head groups", 2), "layer.1.ffn": ("neurons", 64)}),
    ],
)
def test_inspect_encoder_decoders_and_grouped_heads(
    family: str, expected: dict[str, tuple[str, int]], prune: Callable, tmp_path: Path
) -> None:
    from prune_core.testing.tiny import tiny_model

    tiny_model(family).save_pretrained(tmp_path)
    units = _units(prune("inspect", tmp_path, "--json"))
    assert len(units) == (10 if family == "marian" else 4)
    assert {key: (units[key]["kind"], units[key]["left"]) for key in expected} == expected


def test_inspect_what_is_no_model(prune: Callable, tmp_path: Path) -> None:
    result = prune("inspect", tmp_path)
    assert result.code == 7
    assert len(result.errors) == 1
    assert str(tmp_path) in result.err


def test_bench_two_models(prune: Callable, folders: dict[str, Path]) -> None:
    flags = ["--baseline", folders["dense"], "--batch-sizes", "2", "--lengths", "8", "--rounds", "3", "--device", "cpu"]
    result = prune("bench", folders["compact"], *flags)
    assert result.code == 0
    for part in ("ms p50", "ms p99", "GFLOPs", "MB on disk", "speed-up", "medians of 3 rounds", "torch"):
        assert part in result.out
    found = json.loads(prune("bench", folders["compact"], *flags, "--json").out)
    row = found["rows"][0]
    assert row["length"] == 8
    assert row["models"][0]["name"] == str(folders["compact"])
    assert row["models"][0]["flop_ratio"] > 1
    assert row["models"][0]["significant"] is False, "of three rounds"


def test_bench_says_which_linears_skip_zeros(prune: Callable, folders: dict[str, Path]) -> None:
    flags = ["--baseline", folders["dense"], "--batch-sizes", "1", "--lengths", "8", "--rounds", "3", "--device", "cpu"]
    result = prune("bench", folders["compact"], *flags, "--runtimes", "torch,sparse")
    assert result.code == 0
    lines = [line for line in result.out.splitlines() if "linears that skip their zeros, of " in line]
    assert ["none" in line or " as rows of blocks" in line for line in lines] == [True, True]


def test_explain_a_model(prune: Callable, folders: dict[str, Path]) -> None:
    flags = ["--baseline", folders["dense"], "--batch-size", "2", "--length", "8", "--rounds", "3", "--device", "cpu"]
    result = prune("explain", folders["compact"], *flags)
    assert result.code == 0
    for part in ("attention core", "between operations", "in all", "length 8", "if all of it were gone"):
        assert part in result.out
    found = json.loads(prune("explain", folders["compact"], *flags, "--json").out)
    assert sum(found["model"]["kinds"].values()) == pytest.approx(found["model"]["seconds"])
    assert found["baseline"]["name"] == str(folders["dense"])


def test_bench_measures_every_combination(prune: Callable, folders: dict[str, Path]) -> None:
    flags = ["--baseline", folders["dense"], "--rounds", "3", "--device", "cpu", "--threads", "1", "--json"]
    grid = ["--batch-sizes", "1,2", "--lengths", "4,8", "--attention", "eager,sdpa", "--dtypes", "float32,bfloat16"]
    found = json.loads(prune("bench", folders["compact"], folders["dense"], *flags, *grid).out)
    assert found["machine"]["threads"] == 1
    named = [(r["dtype"], r["attention"], r["batch_size"], r["length"]) for r in found["rows"]]
    assert len(set(named)) == len(named) == 16


def test_bench_of_networks(prune: Callable, tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    network = {"row": "small", "base": shape, "heads_per_layer": [1, 0], "ffn_per_layer": [8, 0], "speedup": 3.5}
    file = tmp_path / "networks.json"
    file.write_text(json.dumps({"networks": [network]}))
    flags = ["--batch-sizes", "1", "--lengths", "8", "--rounds", "3", "--device", "cpu"]
    result = prune("bench", "--networks", file, *flags)
    assert result.code == 0
    for part in ("small", "FLOP limit", "published", "3.5"):
        assert part in result.out
    found = json.loads(prune("bench", "--networks", file, *flags, "--json").out)
    assert found["rows"][0]["against"][0]["name"] == "dense"


def test_bench_refuses_a_length_the_model_does_not_take(prune: Callable, folders: dict[str, Path]) -> None:
    result = prune("bench", folders["compact"], "--baseline", folders["dense"], "--lengths", "4000", "--device", "cpu")
    assert result.code == 3
    assert "4000 tokens" in result.err


def test_bench_goes_on_where_one_length_fails(prune: Callable, folders: dict[str, Path]) -> None:
    flags = ["--baseline", folders["dense"], "--batch-sizes", "1", "--lengths", "8,4000", "--rounds", "3"]
    result = prune("bench", folders["compact"], *flags, "--device", "cpu")
    assert result.code == 0
    assert "medians of 3 rounds" in result.out
    assert "Not measured" in result.out
    assert "4000 tokens were asked for" in result.out


def test_bench_without_the_device_asked_for(prune: Callable, folders: dict[str, Path]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    result = prune("bench", folders["compact"], "--baseline", folders["dense"], "--device", "cuda")
    assert result.code == 3
    assert "--device cpu" in result.err


def test_each_line_of_the_log_is_shown_once() -> None:
    """absl, which counts ROUGE, shows every logger's lines itself where the root logger has no handler."""
    lines = """
        import logging
        from absl import logging as absl
        from prune_cli.render import log_to_stderr
        log_to_stderr()
        absl.info("Using default tokenizer.")
        logging.getLogger("prune_core.runs").info("a run's line")
        logging.getLogger("another.library").warning("a warning")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], capture_output=True, text=True, check=True)
    assert done.stderr.count("a run's line") == 1
    assert done.stderr.count("a warning") == 1
