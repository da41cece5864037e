"""Labels and columns as files hold them: types that differ from file to file, names twice, heads of other labels."""

import json
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from prune_core.errors import DataError
from prune_core.tasks.config import TextClassificationConfig
from prune_core.tasks.text_classification import TextClassification


def write(path: Path, labels: list[str], header: str = "sentence,label") -> Path:
    path.write_text("\n".join([header, *(f"a film,{label}" for label in labels)]) + "\n")
    return path


@pytest.fixture
def task(tmp_path, text_model):
    def make(train, validation, model=None):
        train, validation = write(tmp_path / "train.csv", train), write(tmp_path / "dev.csv", validation)
        section = TextClassificationConfig(train_file=train, validation_file=validation)
        return TextClassification(section, model or text_model())

    return make


def test_numbers_are_text_where_the_training_labels_are(task):
    """csv files are read one by one: 1, 2 and x are text, 1 and 2 alone are numbers."""
    found = task(["1", "2", "x"], ["2", "1"])
    assert found.target.head()["id2label"] == {0: "1", 1: "2", 2: "x"}
    assert found.validation()["labels"][:] == [1, 0]


def test_text_where_the_training_labels_are_numbers_names_both_types(task):
    said = r"dev\.csv: column 'label' holds text, such as 'x' in row 3; that of .*train\.csv holds numbers"
    with pytest.raises(DataError, match=said):
        task(["0", "1"], ["0", "1", "x"])


def test_a_number_that_is_no_training_label_is_still_refused(task):
    with pytest.raises(DataError, match=r"dev\.csv: label '3' in row 2 .* is not among the training labels 1, 2, x"):
        task(["1", "2", "x"], ["1", "3"])


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (["neg", "pos"], ["POS", "neg", "mixed"], "label 'mixed' in row 3 .* the labels of the model, neg, pos"),
        (["1", "2", "3"], ["1", "4"], "label 4 in row 2 .* the labels of the model, 1, 2, 3"),
    ],
)
def test_a_label_that_the_model_lacks_is_named_where_it_has_the_others(names, labels, said, tmp_path, text_model):
    section = TextClassificationConfig(validation_file=write(tmp_path / "dev.csv", labels))
    with pytest.raises(DataError, match=rf"dev\.csv: {said}"):
        TextClassification(section, text_model(names))


@pytest.mark.parametrize("names", [["joy", "rage"], ["LABEL_0", "LABEL_1"]])
def test_labels_of_which_the_model_has_none_ask_for_another_head(names, tmp_path, text_model):
    section = TextClassificationConfig(validation_file=write(tmp_path / "dev.csv", ["pos", "neg"]))
    assert not TextClassification(section, text_model(names)).has_trained_head(str(tmp_path / "model"))


def test_many_labels_are_not_all_listed(task):
    with pytest.raises(DataError) as caught:
        task([f"label {number:03}" for number in range(300)], ["other", "label 001"])
    assert str(caught.value).endswith("label 008, label 009, ... (300 in all)")


@pytest.mark.parametrize("header", ["label,label", "\ufefflabel,label"])
def test_two_columns_of_one_name_are_refused(header, tmp_path, text_model):
    file = write(tmp_path / "train.csv", ["0", "1"], header)
    with pytest.raises(DataError, match=r"train\.csv: 2 columns are called 'label'; rename or remove one"):
        TextClassification(TextClassificationConfig(train_file=file), text_model())


def test_a_first_line_longer_than_the_csv_module_takes(tmp_path, text_model):
    name = "label" * 40_000
    file = write(tmp_path / "train.csv", ["0", "1"], f"sentence,{name}")
    section = TextClassificationConfig(train_file=file, validation_file=file, columns={"label": name})
    assert TextClassification(section, text_model()).train()["labels"][:] == [0, 1]


def test_a_trained_head_of_other_labels_is_not_replaced_without_a_word(task, text_model, caplog):
    """As by a file in which a label is missing, and says NaN."""
    model = text_model(["bad", "good"], name="trained")
    trained = task(["bad", "good"], ["bad", "good"], model).load_model(model)
    new = text_model(name="new")
    task(["bad", "good", "NaN"], ["bad", "good"], new).load_model(new)
    assert "was trained for" not in caplog.text
    task(["bad", "good", "NaN"], ["bad", "good"], model).load_model(model)
    assert "trained was trained for other labels, bad, good, than the data have: it is replaced" in caplog.text
    replaced = task(["no", "yes"], ["no", "yes"], model).load_model(model)
    assert not torch.equal(replaced.classifier.weight, trained.classifier.weight)
    for name, value in trained.bert.named_parameters():
        assert torch.equal(value, replaced.bert.get_parameter(name)), name


@pytest.mark.parametrize("row", ["0,a film,1", "a film,1,"])
def test_more_fields_than_names_are_refused(row, tmp_path, text_model):
    """pandas would take the first for an index, and the label for the text."""
    file = tmp_path / "train.csv"
    file.write_text(f"sentence,label\n\n{row}\n")
    said = r"train\.csv: the first row has 3 fields, the header 2 \(sentence, label\); name every column, an index too"
    with pytest.raises(DataError, match=said):
        TextClassification(TextClassificationConfig(train_file=file), text_model())


def test_texts_may_be_longer_than_pythons_own_reader_takes(tmp_path, text_model):
    file = tmp_path / "train.csv"
    file.write_text(f"sentence,label\n{'film ' * 30_000},0\na,1\n")
    section = TextClassificationConfig(train_file=file, validation_file=file)
    assert len(TextClassification(section, text_model()).train()) == 2


@pytest.mark.parametrize("word", ["NA", "nan", "n/a"])
def test_a_word_among_decimal_numbers_makes_no_classes_of_them(word, task):
    numbers = [f"{number / 10}" for number in range(1, 20)]
    with pytest.raises(DataError, match=rf"train\.csv: label '{word}' in row 20 \(column 'label'\) is no number, as"):
        task([*numbers, word], numbers)
    few = [*numbers[:5], word]
    assert len(task(few, few).target.head()["id2label"]) == 6, "one of six may be meant"


def test_names_of_classes_may_look_like_numbers(task, tmp_path, text_model):
    versions = [*["1.5", "2.5"] * 10, "none"]
    file = write(tmp_path / "versions.csv", versions)
    section = TextClassificationConfig(train_file=file, validation_file=file, regression=False)
    assert list(TextClassification(section, text_model()).target.head()["id2label"].values()) == ["1.5", "2.5", "none"]
    assert len(task([*map(str, range(20)), "other"], ["other"]).target.head()["id2label"]) == 21


@pytest.mark.parametrize(("last", "metric"), [("other", "accuracy"), ("0.5", "pearson")])
def test_the_last_row_decides_on_the_type_as_the_first_does(last, metric, task):
    found = task([*["0", "1"] * 5001, last], ["1", last])
    assert found.metric == metric


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["good", 1], "holds 'good' in row 1 and 1 in row 2; labels are all strings or all numbers"),
        ([1, 2, "good"], "holds 1 in row 1 and 'good' in row 3; labels are all strings or all numbers"),
        ([["good"], ["bad"]], "holds lists; a label is one string or one number"),
        ([{"a": 1}, {"a": 2}], "holds {'a': Value('int64')}; a label is one string or one number"),
    ],
)
def test_what_is_no_label_is_named(labels, said, tmp_path, text_model):
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(json.dumps({"sentence": "a film", "label": label}) for label in labels))
    with pytest.raises(DataError, match=re.escape(f"train.jsonl: column 'label' {said}")):
        TextClassification(TextClassificationConfig(train_file=file), text_model())


@pytest.mark.parametrize("stars", ["12345", ["-1", "0", "1"], ["1.0", "2.0", "3.0"], ["2", "1", "3"]])
def test_numbers_that_a_model_names_its_labels_by_are_no_ids(stars, task, tmp_path, text_model):
    """Where the data lack one of them too: of stars from 1 to 5 the last, of -1, 0 and 1 the first."""
    model = text_model([*stars])
    for some in (stars[:-1], stars[1:]):
        file, places = write(tmp_path / "some.csv", [*some]), [stars.index(star) for star in some]
        found = TextClassification(TextClassificationConfig(validation_file=file), model)
        assert found.has_trained_head(model)
        assert found.validation()["labels"][:] == places
        trained = task(some, stars, model)
        assert (trained.train()["labels"][:], len(trained.validation())) == (places, len(stars))
        assert list(trained.load_model(model).config.id2label.values()) == [*stars]


def test_numbers_that_a_model_does_not_name_its_labels_by_are_ids(task, text_model):
    assert task("0123", "02", text_model("1234")).validation()["labels"][:] == [0, 2]


def test_parquet_has_types_of_its_own(tmp_path, text_model):
    for name, labels in (("train", ["1", "2"]), ("dev", [2, 1])):
        Dataset.from_dict({"sentence": ["a", "b"], "label": labels}).to_parquet(tmp_path / f"{name}.parquet")
    files = {"train_file": tmp_path / "train.parquet", "validation_file": tmp_path / "dev.parquet"}
    found = TextClassification(TextClassificationConfig(**files), text_model())
    assert found.validation()["labels"][:] == [1, 0]


@pytest.mark.parametrize("others", [[0.0, 1.0], [0.5, 1.5]])
def test_nan_is_named_with_its_row(others, tmp_path, text_model):
    file = tmp_path / "train.parquet"
    Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [*others, float("nan")]}).to_parquet(file)
    with pytest.raises(DataError, match=r"label nan in row 3 .*column 'label'. is no number"):
        TextClassification(TextClassificationConfig(train_file=file), text_model())
