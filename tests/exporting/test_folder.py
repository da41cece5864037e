"""The folder that is written: what runs it, what it says of itself, and that it is whole or absent."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from prune_core import compact, save_compact
from prune_core.errors import DataError, ExportError, ModelError, VerificationError
from prune_core.exporting import FORMATS, Wanted, export_folder, export_model, exporter, folder, load_exported
from prune_core.exporting.formats import Exporter
from prune_core.folders.pretrained import load_saved
from prune_core.recipe import MeasureSection, TaskSection
from prune_core.testing.sample_masks import uneven, unit_masks
from prune_core.testing.tiny import tiny_model
from tests.exporting.tiny import batches, compacted
from tests.meta.inputs import write_inputs

QUICK = MeasureSection(batch_size=2, length=8, rounds=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """my-bert, its data, and small, a compact one with its tokenizer."""
    root = write_inputs(tmp_path_factory.mktemp("exports"))
    model = load_saved(str(root / "my-bert"))
    kept = uneven(model)
    smaller = compact(model, unit_masks(model, lambda unit: kept[unit.key]))
    save_compact(smaller, root / "small", AutoTokenizer.from_pretrained(root / "my-bert"))
    return root


@pytest.fixture(scope="module")
def written(root):
    """small as ONNX, proven on real inputs and timed against my-bert."""
    pytest.importorskip("onnxruntime")
    task = TaskSection(name="text-classification", validation_file=root / "validation.csv")
    wanted = Wanted("onnx", baseline=str(root / "my-bert"), task=task, measure=QUICK)
    return root / "written", export_folder(str(root / "small"), root / "written", wanted)


def sentences(root, rows, **options):
    tokenizer = AutoTokenizer.from_pretrained(root / "small")
    texts = ["a very good film", "bad", "the awful film", "a film", "great great great film"][:rows]
    return tokenizer(texts, return_tensors="pt", padding=True, **options)


def test_computes_what_the_model_does_on_sizes_never_seen(root, written):
    model, run = load_saved(str(root / "small")).eval(), load_exported(written[0])
    for rows in (1, 2, 5):
        batch = sentences(root, rows, pad_to_multiple_of=9 * rows)
        with torch.no_grad():
            expected = model(**batch).logits
        assert torch.allclose(run(batch)["logits"], expected, atol=1e-5)


def test_the_folder_holds_what_its_use_needs(root, written):
    path, facts = written
    assert json.loads((path / "export.json").read_text()) == json.loads(json.dumps(facts))
    assert {"model.onnx", "config.json", "tokenizer.json", "export.json"} <= {file.name for file in path.iterdir()}
    assert facts["inputs"]["input_ids"] == {"dtype": "int64", "axes": ["batch", "length"]}
    assert set(facts["inputs"]) == {"input_ids", "attention_mask", "token_type_ids"}
    assert facts["outputs"] == ["logits"]
    assert facts["real_inputs"]
    assert facts["parity"]["difference"] <= 1e-5
    assert len({tuple(shapes["input_ids"]) for shapes in facts["parity"]["shapes"]}) > 1
    assert facts["speed"]["speedup_low"] <= facts["speed"]["speedup"] <= facts["speed"]["speedup_high"]
    assert facts["versions"]["opset"] == "18"


def test_onnx_names_its_axes(written):
    import onnx

    graph = onnx.load(written[0] / "model.onnx").graph
    for value in graph.input:
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch", "length"]


def test_other_inputs_are_refused(written):
    with pytest.raises(ExportError, match=r"takes input_ids, .*found input_ids$"):
        load_exported(written[0])({"input_ids": torch.ones(1, 4, dtype=torch.long)})


def test_an_occupied_folder_is_left_alone(root, written):
    with pytest.raises(DataError, match="exists already"):
        export_folder(str(root / "small"), written[0], Wanted("onnx"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused_on_one_line(format, root, tmp_path):
    pytest.importorskip((exporter(format).packages or ("torch",))[0])
    export_folder(str(root / "small"), tmp_path / "out", Wanted(format, measure=QUICK))
    for file in [
        path for path in (tmp_path / "out").iterdir() if path.name in ("model.pt2", "model.onnx", "model.xml")
    ]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ExportError, match="cannot be read") as raised:
        load_exported(tmp_path / "out", trusted=True)
    assert "\n" not in str(raised.value)


def test_code_in_a_file_needs_trust(tmp_path):
    (tmp_path / "export.json").write_text('{"format": "torch-export", "inputs": {}}')
    (tmp_path / "model.pt2").write_bytes(b"whatever")
    with pytest.raises(ExportError, match="trusted=True"):
        load_exported(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": "onnx"}'])
def test_a_folder_of_something_else_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "export.json").write_text(text)
    with pytest.raises(ModelError, match="export"):
        load_exported(tmp_path)


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(ExportError, match="unknown format 'onx'; did you mean 'onnx'"):
        exporter("onx")


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_missing_runtime_names_the_extra(format, tmp_path, monkeypatch):
    monkeypatch.setattr("prune_core.exporting.formats.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=rf"pip install prune-core\[{format}\]"):
        export_folder("no-model", tmp_path / "out", Wanted(format))
    assert list(tmp_path.iterdir()) == []


class Wrong(Exporter):
    """Exports to nothing, and puts out what the model does not."""

    name = file = "wrong"
    labels = 2

    def write(self, traced, folder):
        (folder / self.file).touch()

    def open(self, folder):
        return lambda batch: {"logits": torch.ones(len(batch["input_ids"]), self.labels)}

    def versions(self):
        return {}


@pytest.mark.parametrize(
    ("labels", "said"), [(2, r"a difference of .* \(at most "), (3, r"shape \[\d+, 3\], the model ")]
)
def test_nothing_is_left_where_outputs_differ(labels, said, root, tmp_path, monkeypatch):
    monkeypatch.setattr(Wrong, "labels", labels)
    monkeypatch.setattr(folder, "exporter", lambda name: Wrong())
    with pytest.raises(VerificationError, match=rf"{said}.*nothing was written; try another --format"):
        export_folder(str(root / "small"), tmp_path / "out", Wanted("wrong"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_needs_a_number_is_refused(tmp_path):
    model = tiny_model("bert")
    whole = model.bert.forward
    model.bert.forward = lambda input_ids, **rest: whole(input_ids[:, : len(list(range(input_ids.shape[1])))], **rest)
    with pytest.raises(ExportError, match="for one length of input_ids only, 12"):
        export_model(model, tmp_path, exporter("torch-export"), batches("bert"))


def test_several_outputs_keep_the_names_of_the_model(tmp_path):
    model = tiny_model("bert", head="QuestionAnswering", num_labels=2)
    traced, _ = export_model(model, tmp_path, exporter("torch-export"), batches("bert"))
    assert traced.outputs == ("start_logits", "end_logits")


def test_choices_are_an_axis_of_their_own(tmp_path):
    model = tiny_model("bert", head="MultipleChoice")
    several = [
        {name: torch.stack([value] * (2 + index), 1) for name, value in batch.items()}
        for index, batch in enumerate(batches("bert"))
    ]
    traced, parity = export_model(model, tmp_path, exporter("torch-export"), several)
    assert traced.axes["input_ids"] == {0: "batch", 1: "choices", 2: "length"}
    assert parity.difference <= 1e-5


def test_sounds_without_a_processor(tmp_path):
    compacted("wav2vec2").save_pretrained(tmp_path / "model")
    facts = export_folder(str(tmp_path / "model"), tmp_path / "out", Wanted("torch-export", measure=QUICK))
    assert facts["inputs"]["input_values"] == {"dtype": "float32", "axes": ["batch", "length"]}


def test_a_baseline_that_is_not_there_is_named_before_anything_is_exported(root, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "export_model", lambda *_: pytest.fail("the model was exported first"))
    with pytest.raises(ModelError, match=r"^baseline: .*no-such-model"):
        export_folder(
            str(root / "small"), tmp_path / "out", Wanted("torch-export", baseline=str(root / "no-such-model"))
        )
    assert list(tmp_path.iterdir()) == []


def test_a_baseline_that_takes_fewer_tokens_is_timed_with_as_many(root, tmp_path):
    config = load_saved(str(root / "my-bert")).config.to_dict() | {"max_position_embeddings": 6}
    BertForSequenceClassification(BertConfig(**config)).save_pretrained(tmp_path / "short")
    wanted = Wanted("torch-export", baseline=str(tmp_path / "short"), measure=QUICK)
    facts = export_folder(str(root / "small"), tmp_path / "out", wanted)
    assert facts["speed"]["length"] == 6


def test_a_decoder_says_that_it_has_no_cache(tmp_path):
    compacted("gpt2").save_pretrained(tmp_path / "model")
    facts = export_folder(str(tmp_path / "model"), tmp_path / "out", Wanted("torch-export", measure=QUICK))
    assert any("without a cache" in note for note in facts["notes"])
    assert facts["outputs"] == ["logits"]


def test_numbers_of_an_onnx_file_are_not_traced_ones(root, written):
    """A graph with the traced batch in it would still run for one row: it would repeat it."""
    one, five = (
        load_exported(written[0])(sentences(root, 5))["logits"][:1],
        load_exported(written[0])(sentences(root, 1))["logits"],
    )
    assert one.shape == five.shape == (1, 2)
    assert np.isfinite(one.numpy()).all()
