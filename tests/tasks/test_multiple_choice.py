"""Multiple choice: columns, choices, labels and batches, on files made here; a run from end to end."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import EvalPrediction

from prune_core.distillation.teacher import Teacher
from prune_core.errors import DataError
from prune_core.kit.distillation import hidden_loss, logits_loss
from prune_core.measure import dummy_inputs
from prune_core.recipe import DistillationSection
from prune_core.tasks.config import MultipleChoiceConfig
from prune_core.tasks.multiple_choice import MultipleChoice
from prune_core.training import lengths_of

LISTS = {
    "context": ["a film", "the bad film", "a"],
    "choices": [["good", "very bad", "long"], ["bad", "a good film", "the"], ["good", "bad", "the very long film"]],
    "label": [0, 2, 1],
}
SWAG = {
    "video-id": ["x", "y"],
    "sent1": ["a film", "the bad film"],
    "sent2": ["the", "a"],
    **{f"ending{i}": [word, f"very {word}"] for i, word in enumerate(("good", "bad", "long", "film"))},
    "label": [3, 0],
}


def write(path: Path, rows: dict[str, list]) -> Path:
    path.write_text(
        "\n".join(json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True))
    )
    return path


def task(model: str, folder: Path, train: dict, validation: dict | None = None, **others) -> MultipleChoice:
    section = MultipleChoiceConfig(
        train_file=write(folder / "train.jsonl", train),
        validation_file=write(folder / "validation.jsonl", validation or train),
        **others,
    )
    return MultipleChoice(section, model)


def texts(found: MultipleChoice, row: int) -> list[str]:
    return [" ".join(found.processor.convert_ids_to_tokens(ids)) for ids in found.train()[row]["input_ids"]]


def test_a_column_of_lists(tmp_path, text_model):
    found = task(text_model(), tmp_path, LISTS)
    assert texts(found, 0) == [f"[CLS] a film [SEP] {end} [SEP]" for end in ("good", "very bad", "long")]
    assert found.train()["labels"][:] == [0, 2, 1]
    assert found.metric == "accuracy"


def test_a_column_a_choice_with_context_and_start(tmp_path, text_model):
    """As SWAG has it: the start stands at the beginning of each ending."""
    found = task(text_model(), tmp_path, SWAG)
    assert found.choices == ["ending0", "ending1", "ending2", "ending3"]
    assert texts(found, 1) == [
        f"[CLS] the bad film [SEP] a very {end} [SEP]" for end in ("good", "bad", "long", "film")
    ]


def test_a_question_alone_is_the_context(tmp_path, text_model):
    rows = {
        "question": ["a film", "the"],
        "option_a": ["good", "bad"],
        "option_b": ["bad", "long"],
        "label": ["B", "A"],
    }
    found = task(text_model(), tmp_path, rows)
    assert texts(found, 0) == ["[CLS] a film [SEP] good [SEP]", "[CLS] a film [SEP] bad [SEP]"]
    assert found.train()["labels"][:] == [1, 0]


def test_columns_may_be_named(tmp_path, text_model):
    columns = {"context": "sent2", "choices": "ending2, ending0", "label": "right"}
    rows = {**SWAG, "right": [1, 0]}
    found = task(text_model(), tmp_path, rows, columns=columns)
    assert texts(found, 0) == ["[CLS] the [SEP] long [SEP]", "[CLS] the [SEP] good [SEP]"]


@pytest.mark.parametrize(
    ("labels", "options"),
    [([0, 2, 1], {}), (["0", "2", "1"], {}), (["A", "C", "b"], {}), ([1, 3, 2], {"first_label": 1}),
     (["1", "3", "2"], {"first_label": 1})],
)  # fmt: skip
def test_labels_are_numbers_or_letters(tmp_path, text_model, labels, options):
    found = task(text_model(), tmp_path, {**LISTS, "label": labels}, **options)
    assert found.train()["labels"][:] == [0, 2, 1]


def test_class_labels_count_from_zero(tmp_path, text_model):
    rows = Dataset.from_dict(LISTS).cast_column("label", ClassLabel(names=["1", "2", "3"]))
    rows.to_parquet(tmp_path / "t.parquet")
    files = {"train_file": tmp_path / "t.parquet", "validation_file": tmp_path / "t.parquet"}
    found = MultipleChoice(MultipleChoiceConfig(**files, first_label=1), text_model())
    assert found.train()["labels"][:] == [0, 2, 1]


def test_batches_are_padded_to_their_longest_choice(tmp_path, text_model):
    found = task(text_model(), tmp_path, LISTS)
    features = list(found.train())
    batch = found.collate(features)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape == (3, 3, 9)
    assert batch["labels"].tolist() == [0, 2, 1]
    assert batch["attention_mask"][2].sum(-1).tolist() == [5, 5, 8]
    assert found.collate(features)["labels"].tolist() == [0, 2, 1]  # what it was given is left as it was
    assert set(found.model_inputs(batch)) == {"input_ids", "attention_mask", "token_type_ids"}


def test_lengths_are_those_of_the_longest_choice(tmp_path, text_model):
    found = task(text_model(), tmp_path, LISTS)
    assert lengths_of(found.train()) == [7, 9, 8]
    assert lengths_of(found.train().select([2, 0])) == [8, 7]


def test_texts_are_cut_at_the_limit(tmp_path, text_model):
    rows = {**LISTS, "context": ["film " * 40] * 3}
    assert set(lengths_of(task(text_model(), tmp_path, rows).train())) == {12}  # the model's positions
    found = task(str(tmp_path / "model"), tmp_path, rows, max_length=9)
    assert set(lengths_of(found.train())) == {9}
    assert texts(found, 0)[1] == "[CLS] film film film film [SEP] very bad [SEP]"


def test_heads(tmp_path, text_model, chooser):
    found = task(chooser(), tmp_path, LISTS)
    assert found.has_trained_head(found.source)
    model = found.load_model(found.source)
    assert torch.equal(model.classifier.weight, found.load_model(found.source).classifier.weight)
    outputs = model(**found.collate(list(found.train())))
    assert outputs.logits.shape == (3, 3)
    assert outputs.loss.isfinite()
    classifier = text_model(["a", "b", "c"], name="classifier")
    assert not found.has_trained_head(classifier)
    assert type(found.load_model(classifier)).__name__ == "BertForMultipleChoice"


def test_figures(tmp_path, text_model):
    found = task(text_model(), tmp_path, LISTS)
    logits = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 0.5], [0.0, 1.0, 0.5]])
    assert found.metrics(EvalPrediction(logits, np.array([0, 2, 1]))) == {"accuracy": pytest.approx(2 / 3)}


@torch.no_grad()
def test_a_teacher_is_imitated_over_the_choices_and_on_real_tokens_only(tmp_path, chooser):
    found = task(chooser(), tmp_path, LISTS)
    teacher, student = (found.load_model(chooser(name=name)).eval() for name in ("one", "other"))
    batch = found.collate(list(found.train()))
    outputs, theirs = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    section = DistillationSection(cross_entropy=0.25, logits=0.5, hidden_states=2.0)
    mask = batch["attention_mask"].reshape(9, 9)
    hidden = hidden_loss(outputs.hidden_states, theirs.hidden_states, mask)
    assert hidden != pytest.approx(float(hidden_loss(outputs.hidden_states, theirs.hidden_states)))
    expected = 0.25 * outputs.loss + 0.5 * logits_loss(outputs.logits, theirs.logits, section.temperature) + 2 * hidden
    assert float(Teacher(teacher, found, section).loss(outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_such_models_are_measured_with_one_choice(chooser, tmp_path):
    found = task(chooser(), tmp_path, LISTS)
    model = found.load_model(found.source)
    inputs = dummy_inputs(model, 3, 8)
    assert inputs["input_ids"].shape == (3, 1, 8)
    assert model(**inputs).logits.shape == (3, 1)


FAULTS = {
    "no choices": ({"context": ["a"], "label": [0]}, {}, r"which columns hold the choices is unclear; found context"),
    "one choice": ({"context": ["a"], "choices": [["b"]], "label": [0]}, {}, r"row 1 has 1 choices"),
    "no context": ({"text": ["a"], "choices": [["b", "c"]], "label": [0]}, {}, r"which column the choices follow is"),
    "two families": (
        {"context": ["a"], "ending0": ["x"], "choice0": ["y"], "label": [0]}, {}, r"choices is unclear"),
    "one text": (LISTS, {"columns": {"choices": "context"}}, r"'context' holds .*choices must be one column of lists"),
    "numbers": ({"context": ["a"], "choices": [[1, 2]], "label": [0]}, {}, r"'choices' holds .*int64.*must be strings"),
    "misspelt": (LISTS, {"columns": {"choices": "choises"}}, r"no column 'choises' for choices; did you mean"),
    "role": (LISTS, {"columns": {"start": "context"}}, r"unknown role 'start'.*context, question, choices, label"),
    "uneven": (
        {**LISTS, "choices": [["a", "b"], ["a", "b"], ["a", "b", "c"]], "label": [0, 1, 0]}, {},
        r"row 3 has 3 choices \(column 'choices'\) where the first has 2; every row must have as many"),
    "empty choice": ({**LISTS, "choices": [["a", "b"], ["a", None], ["a", "b"]]}, {}, r"no choices in row 2"),
    "no text": ({**LISTS, "context": ["a", None, "b"]}, {}, r"no context in row 2"),
    "no label": ({**LISTS, "label": ["A", None, "B"]}, {}, r"no label in row 2"),
    "label": ({**LISTS, "label": [0, 3, 1]}, {}, r"label 3 in row 2 .*none of the 3 choices; .* from 0 \(task"),
    "word": ({**LISTS, "label": ["A", "B", "good"]}, {}, r"label 'good' in row 3"),
    "below": ({**LISTS, "label": [1, 0, 2]}, {"first_label": 1}, r"label 0 in row 2"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_data_are_one_line(tmp_path, text_model, fault):
    rows, options, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        task(text_model(), tmp_path, rows, **options)
    assert "\n" not in str(error.value)


def test_faults_in_validation_name_its_file(tmp_path, text_model):
    for change in ({"choices": [["a"] * 2] * 3}, {"label": [0, 1, 9]}):
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "validation.jsonl"))):
            task(text_model(), tmp_path, LISTS, {**LISTS, **change})
