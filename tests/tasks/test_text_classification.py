"""Text classification: columns, labels, heads and features, on files made here."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset
from safetensors.torch import save_file
from transformers import EvalPrediction, RobertaConfig, RobertaForSequenceClassification

from prune_core.errors import DataError, ModelError
from prune_core.tasks.config import TextClassificationConfig
from prune_core.tasks.labels import Labels
from prune_core.tasks.targets import Classes, Number
from prune_core.tasks.text_classification import TextClassification

ROWS = {"sentence": ["a good film", "a very very bad film", "the bad"], "label": [1, 0, 0]}


def write(path: Path, rows: dict[str, list]) -> Path:
    table = pd.DataFrame(rows)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        lines = table.to_dict("records")
        path.write_text(json.dumps(lines) if path.suffix == ".json" else "\n".join(map(json.dumps, lines)))
    return path


def task(model: str, folder: Path, train: dict, validation: dict | None = None, **others) -> TextClassification:
    section = TextClassificationConfig(
        train_file=write(folder / "train.csv", train),
        validation_file=write(folder / "validation.csv", validation or train),
        **others,
    )
    return TextClassification(section, model)


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_features(tmp_path, text_model, extension):
    file = write(tmp_path / f"train.{extension}", ROWS)
    found = TextClassification(TextClassificationConfig(train_file=file, validation_file=file), text_model()).train()
    assert found["labels"][:] == [1, 0, 0]
    assert found["input_ids"][0] == [2, 8, 5, 7, 3]
    assert set(found.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_batches_are_padded_to_their_longest(tmp_path, text_model):
    found = task(text_model(), tmp_path, ROWS)
    batch = found.collate(list(found.train())[1:])
    assert batch["input_ids"].shape == (2, 7)
    assert batch["attention_mask"].sum(1).tolist() == [7, 4]
    assert batch["labels"].dtype == torch.int64


def test_pairs_and_positions(tmp_path, text_model):
    rows = {"one": ["good film"] * 2, "two": ["bad " * 30] * 2, "label": [0, 1]}
    found = task(text_model(), tmp_path, rows)
    example = found.train()[0]
    assert len(example["input_ids"]) == 12  # the model's positions, though max_length is 128
    assert example["token_type_ids"][1] == 0
    assert example["token_type_ids"][-1] == 1
    model = found.load_model(found.source)
    assert model(**found.collate(list(found.train()))).loss.isfinite()


def test_texts_for_roberta_end_where_its_positions_end(tmp_path, text_model):
    """Two positions are never used there, and the tokenizer sets no limit: 12 tokens would be out of range."""
    folder = text_model()
    RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=12,
            max_position_embeddings=12,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            type_vocab_size=2,
        )
    ).save_pretrained(folder)
    found = task(folder, tmp_path, {"text": ["good " * 30] * 2, "label": [0, 1]}, max_length=12)
    assert [len(ids) for ids in found.train()["input_ids"]] == [10, 10]
    assert found.load_model(folder)(**found.collate(list(found.train()))).loss.isfinite()


def test_columns_choose_text_and_label(tmp_path, text_model):
    rows = {"id": ["x", "y"], "title": ["good", "bad"], "body": ["film", "film"], "kind": ["pos", "neg"]}
    columns = {"text": "body", "label": "kind"}
    found = task(text_model(), tmp_path, rows, columns=columns)
    assert found.texts == ["body"]
    assert found.train()["labels"][:] == [1, 0]


def test_string_labels_are_sorted_and_saved_in_the_head(tmp_path, text_model):
    found = task(text_model(), tmp_path, {**ROWS, "label": ["pos", "neg", "mixed"]})
    model = found.load_model(found.source)
    assert model.config.id2label == {0: "mixed", 1: "neg", 2: "pos"}
    assert model.config.label2id == {"mixed": 0, "neg": 1, "pos": 2}
    assert model.classifier.out_features == 3
    assert not found.has_trained_head(found.source)


def test_a_head_with_the_same_labels_keeps_its_order(tmp_path, text_model):
    folder = text_model(["POS", "NEG"])
    found = task(folder, tmp_path, {**ROWS, "label": ["pos", "neg", "neg"]})
    assert found.has_trained_head(folder)
    assert found.train()["labels"][:] == [0, 1, 1]
    again, before = found.load_model(folder), found.load_model(folder)
    assert again.config.id2label == {0: "POS", 1: "NEG"}
    assert torch.equal(again.classifier.weight, before.classifier.weight)
    assert not found.has_trained_head(text_model(["neg", "pos"], name="swapped"))


def test_integers_fit_any_head_of_as_many_labels(tmp_path, text_model):
    found = task(text_model(["bad", "good"]), tmp_path, ROWS)
    assert found.has_trained_head(found.source)
    assert found.load_model(found.source).config.id2label == {0: "bad", 1: "good"}
    assert not found.has_trained_head(text_model(["a", "b", "c"], name="three"))
    assert not found.has_trained_head(text_model(name="masked"))


def test_string_labels_do_not_trust_unnamed_heads(tmp_path, text_model):
    found = task(text_model(["LABEL_0", "LABEL_1"]), tmp_path, {**ROWS, "label": ["pos", "neg", "neg"]})
    assert not found.has_trained_head(found.source)
    assert found.load_model(found.source).config.id2label == {0: "neg", 1: "pos"}


def test_integers_that_do_not_count_from_zero_are_names(tmp_path, text_model):
    found = task(text_model(), tmp_path, {**ROWS, "label": [5, -1, 3]})
    assert found.train()["labels"][:] == [2, 0, 1]
    assert found.load_model(found.source).config.id2label == {0: "-1", 1: "3", 2: "5"}


def test_class_labels_keep_their_names_and_may_differ_in_order(tmp_path, text_model):
    rows = Dataset.from_dict({"sentence": ROWS["sentence"], "label": [1, 0, 0]})
    rows.cast_column("label", ClassLabel(names=["neg", "pos"])).to_parquet(tmp_path / "train.parquet")
    rows.cast_column("label", ClassLabel(names=["pos", "neg"])).to_parquet(tmp_path / "validation.parquet")
    section = TextClassificationConfig(
        train_file=tmp_path / "train.parquet", validation_file=tmp_path / "validation.parquet"
    )
    found = TextClassification(section, text_model(["LABEL_0", "LABEL_1"]))
    assert found.target.head()["id2label"] == {0: "neg", 1: "pos"}
    assert found.has_trained_head(found.source)
    assert found.train()["labels"][:] == [1, 0, 0]
    assert found.validation()["labels"][:] == [0, 1, 1]


def test_numbers_make_a_regression(tmp_path, text_model):
    found = task(text_model(), tmp_path, {**ROWS, "label": [0.5, 4.0, 2.0]})
    model = found.load_model(found.source)
    assert (model.config.num_labels, model.config.problem_type, found.metric) == (1, "regression", "pearson")
    batch = found.collate(list(found.train()))
    assert batch["labels"].dtype == torch.float32
    assert model(**batch).loss.isfinite()
    assert not found.has_trained_head(text_model(["LABEL_0", "LABEL_1"], name="classes"))
    model.save_pretrained(tmp_path / "trained")
    assert found.has_trained_head(str(tmp_path / "trained"))


def test_regression_may_be_asked_for_integers(tmp_path, text_model):
    assert task(text_model(), tmp_path, ROWS, regression=True).metric == "pearson"
    with pytest.raises(DataError, match=r"label 'x' in row 1 \(column 'label'\) is no number"):
        task(text_model(), tmp_path, {**ROWS, "label": ["x", "y", "z"]}, regression=True)


def test_a_model_is_loaded_in_float32(tmp_path, text_model):
    found = task(text_model(["a", "b"]), tmp_path, ROWS)
    found.load_model(found.source).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert found.load_model(str(tmp_path / "half")).dtype == torch.float32


def test_a_new_head_of_another_size_replaces_the_old(tmp_path, text_model):
    found = task(text_model(["a", "b", "c"]), tmp_path, ROWS)
    assert found.load_model(found.source).classifier.out_features == 2


def test_a_tenth_is_held_out_where_there_is_no_validation(tmp_path, text_model, caplog):
    rows = {"sentence": [f"good {i}" for i in range(40)], "label": [0, 1] * 20}
    section = TextClassificationConfig(train_file=write(tmp_path / "t.csv", rows), max_train_samples=10)
    found = TextClassification(section, text_model())
    assert "no validation data, 4 rows are held out" in caplog.text
    assert (len(found.train()), len(found.validation())) == (10, 4)
    again = TextClassification(section, found.source)
    assert found.validation()["labels"][:] == again.validation()["labels"][:]


def test_validation_alone_is_enough_to_evaluate(tmp_path, text_model):
    file = write(tmp_path / "v.csv", {"sentence": ["good", "bad"], "label": ["pos", "pos"]})
    found = TextClassification(TextClassificationConfig(validation_file=file), text_model(["neg", "pos", "mixed"]))
    assert found.has_trained_head(found.source)
    assert found.validation()["labels"][:] == [1, 1]
    with pytest.raises(DataError, match="no training data"):
        found.train()


def test_a_hub_data_set_with_splits(tmp_path, text_model):
    for split in ("train", "test"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        write(tmp_path / "hub" / f"{split}.csv", ROWS)
    section = TextClassificationConfig(dataset=str(tmp_path / "hub"), validation_split="test")
    assert len(TextClassification(section, text_model()).validation()) == 3
    held = TextClassification(TextClassificationConfig(dataset=str(tmp_path / "hub")), str(tmp_path / "model"))
    assert (len(held.train()), len(held.validation())) == (2, 1)
    with pytest.raises(DataError, match=r"split nope cannot be read.*train"):
        TextClassification(
            TextClassificationConfig(dataset=str(tmp_path / "hub"), validation_split="nope"), held.source
        )


def test_texts_that_look_like_nothing_are_texts(tmp_path, text_model):
    found = task(text_model(), tmp_path, {"sentence": ["null", "NA", "good"], "label": ["None", "nan", "None"]})
    assert found.target.head()["id2label"] == {0: "None", 1: "nan"}


FAULTS = {
    "no label": ({"sentence": ["a"], "lable": [1]}, {}, r"no column 'label' or 'labels'; found sentence, lable"),
    "column": (ROWS, {"columns": {"text": "sentense"}}, r"no column 'sentense' for text; did you mean 'sentence'\?"),
    "role": (ROWS, {"columns": {"txt": "sentence"}}, r"unknown role 'txt'; did you mean 'text'.*text_pair, label"),
    "texts": (
        {"a": ["x"] * 2, "b": ["y"] * 2, "c": ["z"] * 2, "label": [0, 1]},
        {},
        r"3 columns could be the text: a, b, c; name one",
    ),
    "no text": ({"a": [1, 2], "label": [0, 1]}, {}, r"no text column; found a, label"),
    "not text": (
        {"a": [1, 2], "label": [0, 1]},
        {"columns": {"text": "a"}},
        r"column 'a' holds .*int64.*must be strings",
    ),
    "pair alone": (ROWS, {"columns": {"text_pair": "sentence"}}, r"text_pair is named and text is not"),
    "null text": ({"sentence": ["a", None, "b"], "label": [0, 1, 0]}, {}, r"no text in row 2 \(column 'sentence'\)"),
    "null label": ({"sentence": ["a", "c", "b"], "label": ["x", "y", None]}, {}, r"no label in row 3"),
    "one label": ({"sentence": ["a", "b"], "label": ["x", "x"]}, {}, r"'x' is the only label .*two at least"),
    "empty": ({"sentence": [], "label": []}, {}, r"train.csv: it holds no rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_data_are_one_line(tmp_path, text_model, fault):
    rows, options, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        task(text_model(), tmp_path, rows, **options)
    assert "\n" not in str(error.value)


def test_a_validation_label_that_training_lacks_is_named_with_its_row(tmp_path, text_model):
    with pytest.raises(DataError, match=r"validation.csv: label 'c' in row 2 .*not among the training labels a, b"):
        task(text_model(), tmp_path, {**ROWS, "label": ["a", "b", "a"]}, {**ROWS, "label": ["a", "c", "c"]})


def test_a_validation_column_that_is_missing_names_its_file(tmp_path, text_model):
    with pytest.raises(DataError, match=r"validation.csv: no column 'sentence' for text"):
        task(text_model(), tmp_path, ROWS, {"label": [0, 1]})


def test_files_that_cannot_be_read(tmp_path, text_model):
    model = text_model()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.parquet").write_text("this is no parquet file")
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n{"a": ')
    (tmp_path / "d.csv").write_text("")
    (tmp_path / "e.json").write_text("[]")
    write(tmp_path / "f.parquet", {"sentence": [], "label": []})
    for name, message in {
        "none.csv": "no data file at",
        "a.txt": "unknown extension '.txt'; use one of .csv, .json, .jsonl, .parquet",
        "b.parquet": "b.parquet cannot be read",
        "c.jsonl": "c.jsonl cannot be read",
        "d.csv": "d.csv cannot be read",
        "e.json": "e.json",
        "f.parquet": "f.parquet: it holds no rows",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            TextClassification(TextClassificationConfig(train_file=tmp_path / name), model)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
    with pytest.raises(DataError, match="no data: name files"):
        TextClassification(TextClassificationConfig(name="text-classification"), model)


def test_models_that_are_none(tmp_path, text_model):
    found = task(text_model(), tmp_path, ROWS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        found.load_model(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="nothing is there"):
        found.load_model(str(tmp_path / "missing"))
    (Path(found.source) / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded"):
        found.load_model(found.source)
    (Path(found.source) / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        task(found.source, tmp_path, ROWS)


def test_a_checkpoint_without_the_encoder_is_refused(tmp_path, text_model):
    found = task(text_model(), tmp_path, ROWS)
    weights = {"something.weight": torch.ones(2)}
    save_file(weights, Path(found.source) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"holds no weights for \d+ parameters of BertForSequenceClassification"):
        found.load_model(found.source)


def test_metrics():
    two = Classes(Labels(("a", "b"), {0: 0, 1: 1}))
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    figures = two.metrics(EvalPrediction((logits, "hidden states"), np.array([0, 1, 0, 1])))
    assert figures == pytest.approx({"accuracy": 0.75, "f1": 0.8, "matthews": 1 / 3**0.5})
    number = Number().metrics(EvalPrediction(np.array([[1.0], [2.0], [9.0]]), np.array([0.1, 0.2, 0.3])))
    assert number["spearman"] == pytest.approx(1)
    assert 0.8 < number["pearson"] < 1
    assert Number().metrics(EvalPrediction(np.ones((3, 1)), np.arange(3.0)))["pearson"] == 0.0


DATA = Path(os.environ.get("PRUNE_DATA", Path(__file__).parents[2] / "../shared/data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here (PRUNE_DATA)")
@pytest.mark.parametrize(
    ("name", "texts", "metric"),
    [("rte", ["sentence1", "sentence2"], "accuracy"), ("stsb", ["sentence1", "sentence2"], "pearson"),
     ("cola", ["sentence"], "accuracy")],
)  # fmt: skip
def test_real_data(text_model, name, texts, metric):
    section = TextClassificationConfig(
        train_file=DATA / f"{name}-train.parquet",
        validation_file=DATA / f"{name}-validation.parquet",
        max_validation_samples=50,
        max_train_samples=50,
    )
    found = TextClassification(section, text_model())
    assert (found.texts, found.metric, len(found.validation())) == (texts, metric, 50)


def test_a_file_in_another_encoding_than_utf8(tmp_path, text_model):
    file = tmp_path / "latin.csv"
    file.write_bytes("text,label\ngood caf\xe9,1\nbad,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv cannot be read: it is not UTF-8 .*; save it as UTF-8"):
        TextClassification(TextClassificationConfig(train_file=file), text_model())
