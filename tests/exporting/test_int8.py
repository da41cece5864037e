"""int8 in ONNX Runtime: smaller, close, with figures that a plain loop finds too; refusals elsewhere."""

import csv

import pytest
import torch
from transformers import AutoTokenizer

from prune_core.errors import ExportError
from prune_core.exporting import Wanted, export_folder, export_model, exporter, load_exported
from prune_core.exporting.batches import real
from prune_core.exporting.rounding import agreement, round_to_int8
from prune_core.folders.pretrained import load_saved
from prune_core.recipe import MeasureSection, Recipe, TaskSection
from prune_core.runs.preparation import trained_job
from tests.meta.inputs import write_inputs

LINEARS = 2 * 6 + 2
"""Of my-bert: six in each layer, the pooler and the classifier."""
QUICK = MeasureSection(batch_size=2, length=8, rounds=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("int8"))


@pytest.mark.parametrize("kind", ["dynamic", "calibrated"])
def test_the_figures_are_those_of_what_was_written(kind, root, tmp_path):
    pytest.importorskip("onnxruntime")
    files = {"train_file": root / "train.csv", "validation_file": root / "validation.csv"}
    wanted = Wanted("onnx", kind, task=TaskSection(name="text-classification", **files), measure=QUICK)
    found = export_folder(str(root / "my-bert"), tmp_path / "out", wanted)["int8"]
    assert found["float32"]["accuracy"] == pytest.approx(accuracy(root, exact=True))
    assert found["int8"]["accuracy"] == pytest.approx(accuracy(root, load_exported(tmp_path / "out")))
    assert found["bytes"] < found["bytes_float32"]
    assert weights_in_int8(tmp_path / "out" / "model.onnx") == LINEARS
    assert 0 < found["relative_difference"] < 0.2


def weights_in_int8(file):
    import onnx

    tensors = onnx.load(file).graph.initializer
    return sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2 for tensor in tensors)


@pytest.mark.parametrize("kind", ["dynamic", "calibrated"])
def test_weights_beside_the_graph_are_rounded_with_it(kind, root, tmp_path):
    """As those of a model beyond 2 GB: nothing of float32 stays, and the bytes are those of both files."""
    onnx = pytest.importorskip("onnx")
    files = {"train_file": root / "train.csv", "validation_file": root / "validation.csv"}
    job = trained_job(Recipe(model=str(root / "my-bert"), task=TaskSection(name="text-classification", **files)), "cpu")
    model, target = load_saved(str(root / "my-bert")).eval(), exporter("onnx")
    batches, file = real(model, job.task), tmp_path / "model.onnx"
    export_model(model, tmp_path, target, batches)
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data")
    before = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    found = round_to_int8(target, tmp_path, kind, batches, (model, job))
    after = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert before.keys() == after.keys() == {"model.onnx", "model.onnx.data"}
    assert (found["bytes_float32"], found["bytes"]) == (sum(before.values()), sum(after.values()))
    assert after["model.onnx.data"] < before["model.onnx.data"]
    onnx.checker.check_model(str(file))
    assert weights_in_int8(file) == LINEARS
    assert 0 < found["relative_difference"] < 0.2


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2", "avx512f"}, True),
        ("AMD64", set(), True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512_vnni"}, False),
        ("aarch64", {"asimddp"}, False),
    ],
)
def test_which_cpus_overflow(machine, flags, expected, monkeypatch):
    onnx_int8 = pytest.importorskip("prune_core.exporting.onnx_int8")
    monkeypatch.setattr(onnx_int8.platform, "machine", lambda: machine)
    monkeypatch.setattr(onnx_int8, "cpu_flags", lambda: flags)
    assert onnx_int8.saturates() is expected


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_have_a_bit_less_where_the_cpu_would_overflow(bits, root, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr("prune_core.exporting.onnx_int8.saturates", lambda: bits == 7)
    found = export_folder(str(root / "my-bert"), tmp_path / "out", Wanted("onnx", "dynamic", measure=QUICK))["int8"]
    tensors = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    weights = [onnx.numpy_helper.to_array(one) for one in tensors if one.data_type == onnx.TensorProto.INT8]
    assert found["weight_bits"] == bits
    assert max(abs(weight.astype(int)).max() for weight in weights) == {7: 64, 8: 127}[bits]


def accuracy(root, run=None, exact=False):
    """By a loop over the rows, one by one."""
    tokenizer, model = AutoTokenizer.from_pretrained(root / "my-bert"), load_saved(str(root / "my-bert")).eval()
    rows = list(csv.DictReader((root / "validation.csv").open()))
    right = 0
    for row in rows:
        batch = tokenizer(row["sentence"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits if exact else run(batch)["logits"]
        right += model.config.id2label[int(logits.argmax())] == row["label"]
    return right / len(rows)


@pytest.mark.parametrize("format", ["torch-export", "openvino"])
def test_refused_where_the_runtime_has_none(format, root, tmp_path):
    if format == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(ExportError, match=f"format {format}: no int8"):
        export_folder(str(root / "my-bert"), tmp_path / "out", Wanted(format, "dynamic"))
    assert not (tmp_path / "out").exists()


def test_calibration_needs_real_inputs(root, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExportError, match="give --task"):
        export_folder(str(root / "my-bert"), tmp_path / "out", Wanted("onnx", "calibrated"))


def test_agreement_by_hand():
    one = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    other = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    batch = {"input_ids": torch.zeros(2, 5)}
    found = agreement(lambda _: {"logits": one}, lambda _: {"logits": other}, [batch])
    changed = {"largest_difference": 1.0, "relative_difference": (2 / 26) ** 0.5, "same_decisions": 0.5}
    assert found == {"samples": 2, **changed}


@pytest.mark.parametrize("by_token", [True, False])
def test_padding_decides_nothing(by_token):
    """Neither as a token of its own, nor as the token at which a span begins."""
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    one = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    other = torch.tensor([[2.0, 1.0, 9.0], [3.0, 2.0, 1.0]])
    if by_token:
        one, other = (torch.stack([logits, 12 - logits], -1) for logits in (one, other))
    found = agreement(lambda _: {"logits": one}, lambda _: {"logits": other}, [batch])
    assert found["largest_difference"] == 1.0
    assert found["same_decisions"] == (1.0 if by_token else 0.5)
