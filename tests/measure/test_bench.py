"""A grid of settings: which combinations, on which batches, and what is refused."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from transformers import AttentionInterface

from prune_core import measure
from prune_core.arithmetic import arithmetic
from prune_core.bench.folders import bench_folders, text_lengths
from prune_core.errors import DataError, ExportError, RecipeError
from prune_core.exporting import export_model, runtimes
from prune_core.folders.pretrained import usable_length
from prune_core.measure import Grid, Setting
from prune_core.measure.calls import make_call
from prune_core.measure.explain import explain_folders
from prune_core.measure.inputs import ragged_inputs
from prune_core.measure.runtimes import opener
from prune_core.recipe import MeasureSection
from prune_core.sparse import runtime
from prune_core.testing.tiny import tiny_model
from tests.meta.inputs import _tokenizer

QUICK = {"batch_sizes": (2,), "lengths": (6,), "rounds": 3}


def pair(family: str = "bert", **changes):
    return {"dense": tiny_model(family, layers=3, **changes), "small": tiny_model(family, **changes)}


def test_every_combination_once_the_first_model_being_the_baseline():
    grid = Grid(
        batch_sizes=(1, 2), lengths=(4, 8), attention=("eager", "sdpa"), dtypes=("float32", "bfloat16"), rounds=3
    )
    models = pair() | {"smaller": tiny_model(layers=1)}
    found = measure.bench(models, grid, "cpu")
    assert [row.setting for row in found.rows] == list(grid.settings())
    assert len(set(grid.settings())) == len(found.rows) == 16
    for row in found.rows:
        assert [side.name for side in row.sides] == ["dense", "small", "smaller"]
        assert 1 < row.flop_ratios[0] < row.flop_ratios[1]
        assert row.sides[0].activation_bytes > 0
    half = {row.setting.dtype: row.sides[0].weight_bytes for row in found.rows}
    assert half["bfloat16"] < 0.6 * half["float32"]
    assert models["dense"].dtype == torch.float32
    assert models["dense"].config._attn_implementation == "sdpa"
    assert json.loads(json.dumps(found.to_dict()))["grid"]["rounds"] == 3


def test_rounds_take_batches_in_turn_and_prime_each_with_itself(monkeypatch: pytest.MonkeyPatch):
    """On a clock that a token moves by a second, a round takes as long as the batch whose turn it is."""
    clock, turns = [0.0], []

    def runs(input_ids: torch.Tensor) -> None:
        turns.append(input_ids.shape[1])
        clock[0] += input_ids.shape[1]

    monkeypatch.setattr("prune_core.measure.timing.time.perf_counter", lambda: clock[0])
    batches = [{"input_ids": torch.zeros(1, length)} for length in (4, 8)]
    call = make_call(tiny_model("bert"), runs, batches, Setting(batch_size=1, length=None))
    assert measure.time_calls({"a": call}, rounds=4, primed=True)["a"] == [4, 8, 4, 8]
    assert turns[-8:] == [4, 4, 8, 8, 4, 4, 8, 8]


def greedy(model, batch: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """The tokens that follow, [batch, count], each by a forward of all that is there."""
    if not model.config.is_encoder_decoder:
        for _ in range(count):
            ids = batch["input_ids"]
            following = model(ids, use_cache=False).logits[:, -1:].argmax(-1)
            batch = {"input_ids": torch.cat([ids, following], dim=1)}
        return batch["input_ids"][:, -count:]
    tokens = torch.full((2, 1), model.config.decoder_start_token_id)
    for _ in range(count):
        outputs = model(**batch | {"decoder_input_ids": tokens}, use_cache=False)
        tokens = torch.cat([tokens, outputs.logits[:, -1:].argmax(-1)], dim=1)
    return tokens[:, 1:]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bart", "t5", "whisper"])
def test_prefill_and_decoding(family: str):
    """Decoding with a cache gives the tokens that greedy decoding without one does; and it is what is timed."""
    model = tiny_model(family)
    batch, grid = measure.dummy_inputs(model, 2, 6), Grid(**QUICK, new_tokens=5)
    prefill, decode = (make_call(model, model, [batch], setting) for setting in grid.settings())
    with torch.inference_mode():
        _, first = prefill.run(prefill.prepare(0))
        last = decode.run(decode.prepare(0))
        tokens = greedy(model, batch, 6)
    assert torch.equal(first, tokens[:, :1])
    assert torch.equal(last, tokens[:, -1:])
    found = measure.bench({"dense": model, "same": model}, grid, "cpu")
    assert [row.setting.phase for row in found.rows] == ["prefill", "decode"]
    timing = found.rows[1].sides[0].timing
    assert timing.throughput == pytest.approx(2 * 5 / timing.p50)


def test_new_tokens_stand_behind_the_text_and_need_positions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Asked for by nobody, a text leaves them room; asked for, it is refused before anything is measured."""
    model = tiny_model("gpt2")
    longest = usable_length(model.config)
    with monkeypatch.context() as patched:
        patched.setattr("prune_core.measure.grids.time_calls", lambda *_, **__: pytest.fail("something was measured"))
        grid = Grid(batch_sizes=(1,), lengths=(4, longest - 2), new_tokens=3)
        said = (
            f"^{longest - 2} tokens and 3 new ones were asked for, .* takes {longest} at most: give {longest} or less"
        )
        with pytest.raises(RecipeError, match=said):
            measure.bench({"dense": model}, grid, "cpu")
        with pytest.raises(RecipeError, match=r"1 tokens and 64 new ones were asked for, BartFor.* takes 64 at most"):
            measure.bench({"dense": tiny_model("bart")}, Grid(**QUICK, new_tokens=64), "cpu")
    model.save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    found = bench_folders([folder], folder, Grid(batch_sizes=(1,), rounds=3, new_tokens=3), "cpu")
    assert [row.setting.length for row in found.rows] == [longest - 3] * 2


def test_texts_of_the_lengths_of_a_data_set():
    model = tiny_model("bert")
    right, left = (ragged_inputs(model, [2, 5, 1], left=left)["attention_mask"].tolist() for left in (False, True))
    assert right == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert left == [row[::-1] for row in right]
    grid = Grid(batch_sizes=(2,), lengths_of="data", rounds=3)
    found = measure.bench(pair(), grid, "cpu", lengths=[3, 4, 8, 8])
    fixed = measure.bench(pair(), Grid(batch_sizes=(2,), lengths=(4, 8), rounds=3), "cpu")
    assert found.rows[0].sides[0].flops == sum(row.sides[0].flops for row in fixed.rows) / 2
    with pytest.raises(RecipeError, match="data has 1 texts, fewer than a batch of 2"):
        measure.bench(pair(), grid, "cpu", lengths=[3])
    with pytest.raises(RecipeError, match="takes pixel_values, which has no such lengths"):
        measure.bench(pair("vit"), grid, "cpu", lengths=[3, 4])


def test_a_length_that_nobody_asked_for_is_one_that_the_models_take(tmp_path: Path):
    for name, model in pair().items():
        model.save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in pair()]
    found = bench_folders(folders[1:], folders[0], Grid(batch_sizes=(1,), rounds=3), "cpu")
    assert [row.setting.length for row in found.rows] == [64], "128 by default"
    why = explain_folders(folders[1], folders[0], MeasureSection(batch_size=1, rounds=3), "cpu")
    assert why.comparison.settings["length"] == 64
    with pytest.raises(RecipeError, match=r"128 tokens were asked for, .* takes 64 at most"):
        bench_folders(folders[1:], folders[0], Grid(batch_sizes=(1,), lengths=(128,), rounds=3), "cpu")


def test_lengths_are_those_of_the_tokens_cut_to_what_the_models_take(tmp_path: Path):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "model")
    _tokenizer().save_pretrained(tmp_path / "model")
    longest = usable_length(model.config)
    (tmp_path / "texts.txt").write_text("good film\n\nbad\n" + "very " * 500 + "\n")
    assert sorted(text_lengths(str(tmp_path / "texts.txt"), str(tmp_path / "model"), [longest])) == [3, 4, longest]
    grid = Grid(batch_sizes=(3,), lengths_of=str(tmp_path / "texts.txt"), rounds=3)
    name = str(tmp_path / "model")
    found = bench_folders([name], name, grid, "cpu")
    assert [side.name for side in found.rows[0].sides] == [name, f"{name} (2)"]
    assert found.rows[0].sides[1].file_bytes == (tmp_path / "model/model.safetensors").stat().st_size
    (tmp_path / "one.csv").write_text("text,label\ngood film,1\nbad,0\n")
    assert sorted(text_lengths(str(tmp_path / "one.csv"), name, [])) == [3, 4]
    (tmp_path / "two.csv").write_text("text,label\ngood film,positive\nbad,negative\n")
    with pytest.raises(DataError, match=r"two\.csv has several columns of strings, text, label: give a txt file"):
        text_lengths(str(tmp_path / "two.csv"), name, [])
    with pytest.raises(RecipeError, match=r"^lengths_of: no file is at typo\.txt, and no task is called that"):
        text_lengths("typo.txt", name, [])
    with pytest.raises(DataError):
        text_lengths(str(tmp_path / "model/model.safetensors"), str(tmp_path / "model"), [])


def test_what_cannot_be_measured_so():
    with pytest.raises(RecipeError, match="new_tokens: BertForSequenceClassification generates no text"):
        measure.bench(pair(), Grid(**QUICK, new_tokens=3), "cpu")
    with pytest.raises(RecipeError, match="attention: MPNetForSequenceClassification has no sdpa, only eager"):
        measure.bench(pair("mpnet"), Grid(**QUICK, attention=("sdpa",)), "cpu")
    for name, flags in (("cuda-graphs", {"runtimes": ("cuda-graphs",)}), ("tf32", {"dtypes": ("tf32",)})):
        with pytest.raises(RecipeError, match=f"{name}: it is there on CUDA devices only"):
            measure.bench(pair(), Grid(**QUICK, **flags), "cpu")


def test_a_setting_that_fails_does_not_lose_the_others():
    grid = Grid(batch_sizes=(2,), lengths=(6, 65), attention=("eager", "sdpa"), rounds=3)
    found = measure.bench(pair("mpnet"), grid, "cpu")
    assert [(row.setting.attention, row.setting.length) for row in found.rows] == [("eager", 6)]
    assert [(one.setting.attention, one.setting.length) for one in found.failed] == [
        ("eager", 65),
        ("sdpa", 6),
        ("sdpa", 65),
    ]
    assert "MPNetForSequenceClassification has no sdpa" in found.to_dict()["failed"][1]["error"]
    assert found.to_dict()["failed"][1]["attention"] == "sdpa"


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_models_are_measured_in_the_runtimes_that_they_are_exported_to(name: str, monkeypatch: pytest.MonkeyPatch):
    """Exported once for all sizes; the baseline runs in the same runtime."""
    written = []
    monkeypatch.setattr(
        runtimes, "export_model", lambda model, *more: (written.append(model), export_model(model, *more))
    )
    models = pair()
    found = measure.bench(models, Grid(batch_sizes=(1, 2), lengths=(6,), rounds=3, runtimes=("torch", name)), "cpu")
    assert [row.setting.runtime for row in found.rows] == ["torch"] * 2 + [name] * 2
    assert written == list(models.values())
    assert found.rows[3].sides[0].flops == found.rows[1].sides[0].flops
    assert found.rows[3].sides[1].activation_bytes is None
    with pytest.raises(ExportError, match=r"the graph cannot be (translated|saved)"):
        measure.bench({"dense": tiny_model("gemma3")}, Grid(**QUICK, runtimes=(name,)), "cpu")


def test_a_runtime_computes_what_the_model_does():
    model = tiny_model("bert")
    batch = measure.dummy_inputs(model, 3, 9)
    with TemporaryDirectory() as place:
        for name in ("torch", "onnx", "torch-export", "sparse"):
            with opener(name)(model, [batch], Path(place) / name) as runs, torch.inference_mode():
                torch.testing.assert_close(runs(**batch)["logits"], model(**batch).logits)


def test_zeros_are_skipped_in_a_twin(monkeypatch: pytest.MonkeyPatch):
    """Chosen for the batch of middle size; the model itself stays as it is, its linears plain."""
    model = tiny_model("bert")
    taken = []
    monkeypatch.setattr(
        runtime, "use_sparse_forms", lambda twin, batch: taken.append((twin, batch["input_ids"].shape[1])) or ()
    )
    batches = [measure.dummy_inputs(model, 2, length) for length in (8, 3, 5)]
    with opener("sparse")(model, batches, Path("none")) as runs:
        twin = runs.model
        assert taken == [(twin, 5)]
        assert twin is not model
        assert all(one is other for one, other in zip(twin.parameters(), model.parameters(), strict=True))


def test_runtimes_that_cannot():
    for more in ({"new_tokens": 3}, {"dtypes": ("float32", "bfloat16")}):
        with pytest.raises(
            RecipeError, match="onnx runs a forward pass in float32: leave new_tokens and other dtypes out"
        ):
            Grid.parse({**QUICK, "runtimes": ("torch", "onnx"), **more})
    with pytest.raises(RecipeError, match="sparse chooses for a forward pass, not for steps of one token"):
        Grid.parse({**QUICK, "runtimes": ("torch", "sparse"), "new_tokens": 3})


def test_what_is_compiled_gets_no_mask_of_ones(monkeypatch: pytest.MonkeyPatch):
    """As eager transformers leaves one out; where texts are padded all get theirs."""
    given: dict[str, set[str]] = {}

    def watched(model):
        return lambda **batch: given["compile"].update(batch) or model(**batch)

    monkeypatch.setattr(torch, "compile", watched)
    for family, more in (("bert", {}), ("llama", {"new_tokens": 2})):
        given["compile"] = set()
        measure.bench({"dense": tiny_model(family)}, Grid(**QUICK, runtimes=("compile",), **more), "cpu")
        assert "input_ids" in given["compile"]
        assert "attention_mask" not in given["compile"]
    ragged = Grid(batch_sizes=(2,), lengths_of="data", runtimes=("compile",), rounds=3)
    measure.bench({"dense": tiny_model("bert")}, ragged, "cpu", lengths=[3, 4])
    assert "attention_mask" in given["compile"]


@pytest.mark.slow
def test_compiled_models_are_measured_beside_eager_ones():
    found = measure.bench(pair(), Grid(**QUICK, runtimes=("torch", "compile")), "cpu")
    assert [row.setting.runtime for row in found.rows] == ["torch", "compile"]
    assert found.rows[0].sides[0].flops == found.rows[1].sides[0].flops


def test_flops_of_attention_are_counted_where_the_counter_does_not_know_it():
    """Of attention in a kernel of somebody else, which here multiplies without a matrix product."""

    def foreign(module, query, key, value, mask, scaling, **_):
        scores = ((query * scaling).unsqueeze(3) * key.unsqueeze(2)).sum(-1).softmax(-1)
        return (scores.unsqueeze(4) * value.unsqueeze(2)).sum(3).transpose(1, 2), None

    AttentionInterface.register("foreign", foreign)
    models = pair()
    for name in ("eager", "sdpa", "foreign"):
        for model in models.values():
            model.set_attn_implementation(name)
        (row,) = measure.bench(models, Grid(**QUICK), "cpu").rows
        assert {model.config._attn_implementation for model in models.values()} == {name}
        if name == "eager":
            expected = [side.flops for side in row.sides]
        assert [side.flops for side in row.sides] == expected


@pytest.mark.gpu
def test_grid_on_cuda():
    grid = Grid(**QUICK, dtypes=("float32", "tf32", "float16"), runtimes=("torch", "cuda-graphs"))
    found = measure.bench(pair(), grid, "cuda")
    assert [row.setting.runtime for row in found.rows] == ["torch", "cuda-graphs"] * 3
    assert found.rows[1].sides[0].activation_bytes is None
    assert found.rows[0].sides[0].activation_bytes > 0
    assert found.machine.device_bytes > 0
    assert re.fullmatch(r"\d+\.\d+", found.machine.capability)
    assert found.machine.driver is None or re.fullmatch(r"[\d.]+", found.machine.driver)


@pytest.mark.gpu
def test_a_cuda_graph_computes_what_the_model_does(tmp_path: Path):
    model = tiny_model("bert").cuda()
    batch = {name: value.cuda() for name, value in measure.dummy_inputs(model, 3, 9).items()}
    with opener("cuda-graphs")(model, [batch], tmp_path) as runs, torch.inference_mode():
        torch.testing.assert_close(runs(**batch)["logits"], model(**batch).logits)


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_no_stream_behind(tmp_path: Path):
    model = tiny_model("bert").cuda()
    model.register_forward_hook(lambda *_: torch.ones(1, device="cuda").item())  # waits, which no graph can
    batch = {name: value.cuda() for name, value in measure.dummy_inputs(model, 3, 9).items()}
    stream = torch.cuda.current_stream()
    with pytest.raises(RecipeError, match="cannot be captured"), opener("cuda-graphs")(model, [batch], tmp_path):
        pass
    assert torch.cuda.current_stream() == stream


@pytest.mark.gpu
def test_tf32_is_another_arithmetic_on_cuda():
    one, other = (torch.randn(512, 512, device="cuda") for _ in range(2))
    with arithmetic("float32"):
        exact = one @ other
    with arithmetic("tf32"):
        rounded = one @ other
    wanted = (one.double() @ other.double()).float()
    assert (exact - wanted).abs().max() < 1e-3 < (rounded - wanted).abs().max()


@pytest.mark.gpu
def test_lengths_of_a_data_set_on_cuda():
    grid = Grid(batch_sizes=(2,), lengths_of="data", dtypes=("float32", "bfloat16"), rounds=3)
    found = measure.bench(pair(), grid, "cuda", lengths=[3, 4, 8, 8])
    here = measure.bench(pair(), grid, "cpu", lengths=[3, 4, 8, 8])
    assert [row.sides[0].flops for row in found.rows] == [row.sides[0].flops for row in here.rows]
    assert all(row.sides[0].activation_bytes > 0 for row in found.rows)


@pytest.mark.gpu
def test_decoding_on_cuda():
    assert len(measure.bench(pair("llama"), Grid(**QUICK, new_tokens=3), "cuda").rows) == 2
