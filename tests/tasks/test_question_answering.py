"""Question answering: columns, faults, figures and distillation, on files made here; a run from end to end."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EvalPrediction,
)

from prune_core.distillation.teacher import Teacher
from prune_core.errors import DataError, ModelError, RecipeError
from prune_core.recipe import DistillationSection
from prune_core.runs.configuring import validated
from prune_core.runs.run import evaluate_folder, run
from prune_core.runs.verifying import verify_run
from prune_core.tasks.config import QuestionAnsweringConfig
from prune_core.tasks.question_answering import QuestionAnswering
from tests.tasks.answering import CONTEXT, ROWS, V2, answers_of, predicted, row, sizes, task, write, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "trained", trained=True)


# --- reading


def official(path: Path, rows: list[dict]) -> Path:
    """The rows as a file of SQuAD's own; those without an answer as SQuAD 2.0 has them."""
    paragraphs = []
    for number, found in enumerate(rows):
        texts, starts = found["answers"]["text"], found["answers"]["answer_start"]
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        impossible = {} if answers else {"is_impossible": True, "plausible_answers": [{"text": "a"}]}
        question = {"id": str(number), "question": found["question"], "answers": answers, **impossible}
        paragraphs.append({"context": found["context"], "qas": [question]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "A", "paragraphs": paragraphs}]}))
    return path


@pytest.mark.parametrize("rows", [ROWS, V2], ids=["1.1", "2.0"])
def test_the_files_of_squad_itself(rows, tmp_path, model):
    files = {f"{part}_file": official(tmp_path / f"{part}.json", rows) for part in ("train", "validation")}
    found, plain = QuestionAnswering(QuestionAnsweringConfig(**files), model), task(tmp_path, model, rows)
    assert found.unanswerable == plain.unanswerable
    assert found.train().to_list() == plain.train().to_list()
    assert found.validation().to_list() == plain.validation().to_list()


def test_a_file_of_squad_that_lacks_something(tmp_path, model):
    file = official(tmp_path / "squad.json", ROWS)
    file.write_text(file.read_text().replace('"qas"', '"questions"'))
    with pytest.raises(
        DataError, match=r"squad\.json cannot be read: it begins as a file of SQuAD, .* no 'qas'"
    ) as error:
        QuestionAnswering(QuestionAnsweringConfig(train_file=file), model)
    assert "\n" not in str(error.value)


def test_the_columns_have_their_own_names_by_default(tmp_path, model):
    found = task(tmp_path, model, ROWS)
    assert (found.metric, found.unanswerable) == ("f1", False)
    features = found.train()
    assert set(features.column_names) == {
        *("input_ids", "token_type_ids", "attention_mask", "start_positions", "end_positions")
    }


def as_lists(r: dict) -> dict:
    return {**r, "answers": r["answers"]["text"], "answer_start": r["answers"]["answer_start"]}


def as_list_of_both(r: dict) -> dict:
    pairs = zip(r["answers"]["text"], r["answers"]["answer_start"], strict=True)
    return {**r, "answers": [{"text": text, "answer_start": start} for text, start in pairs]}


def as_text(r: dict) -> dict:
    return {**r, "answers": r["answers"]["text"][0], "answer_start": r["answers"]["answer_start"][0]}


@pytest.mark.parametrize("form", [as_lists, as_list_of_both, as_text])
def test_answers_in_any_form_give_the_same_features(tmp_path, model, form):
    expected, found = (task(tmp_path, model, rows).train() for rows in (ROWS, [form(r) for r in ROWS]))
    assert list(found) == list(expected)


def test_columns_of_other_names(tmp_path, model):
    names = {"id": "key", "context": "passage", "question": "query", "answers": "gold", "answer_start": "at"}
    rows = [{names[key]: value for key, value in as_text(r).items()} for r in ROWS]
    assert list(task(tmp_path, model, rows, columns=names).train()) == list(task(tmp_path, model, ROWS).train())


def test_a_csv_with_plain_answers_and_empty_cells(tmp_path, model):
    rows = [as_text(r) for r in ROWS] + [{**V2[-1], "answers": None, "answer_start": None}]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    section = QuestionAnsweringConfig(train_file=tmp_path / "t.csv", validation_file=tmp_path / "t.csv")
    found = QuestionAnswering(section, model)
    assert found.unanswerable
    assert set(answers_of(found, found.train())) == {"", "bern", "rome", "bob"}


FAULTS = {
    "a start that is wrong": (
        [ROWS[0], {**ROWS[1], "answers": {"text": ["rome"], "answer_start": [3]}}],
        {},
        r"t\.jsonl: row 2 \(id where is bob\?\).*'rome' is not at character 3, there is ' liv'",
    ),
    "a start before the text": (
        [{**ROWS[0], "answers": {"text": ["bern"], "answer_start": [-4]}}],
        {},
        "row 1 .*not at character -4",
    ),
    "no start": ([{**ROWS[0], "answers": "bern"}], {}, "'bern' has no start; .*--column answer_start=NAME"),
    "a start that is a text": ([{**as_text(ROWS[0]), "answer_start": "x"}], {}, "row 1 .*number of characters"),
    "no start in a list of them": ([{**as_text(ROWS[0]), "answer_start": []}], {}, "row 1 .*number of characters"),
    "fewer starts": (
        [{**ROWS[0], "answers": {"text": ["bern", "bern"], "answer_start": [13]}}],
        {},
        "row 1 .*2 answers have 1 starts",
    ),
    "answers that are numbers": ([{**ROWS[0], "answers": 7}], {}, "row 1 .*found 7"),
    "no answer where there must be one": (V2, {"unanswerable": False}, r"row 4 .*no answer.*task\.unanswerable=true"),
    "no answer at all": ([V2[-1]], {}, "no row has an answer"),
    "another column": ([{"passage": CONTEXT, "question": "q", "answers": "a"}], {}, "no column 'context'"),
    "another role": (ROWS, {"columns": {"contxt": "context"}}, "did you mean 'context'"),
    "a context that is no text": ([{**ROWS[0], "context": 3}], {}, "context must be strings"),
    "a question that is missing": ([ROWS[0], {**ROWS[1], "question": None}], {}, "no question in row 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_file_and_row(tmp_path, model, fault):
    rows, options, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        task(tmp_path, model, rows, **options)


def test_scores_need_no_position(tmp_path, model):
    golds = [["BERN!", "in the capital"], ["Rome"], ["the bob"]]
    validation = [
        {**r, "answers": {"text": gold, "answer_start": [0] * len(gold)}} for r, gold in zip(ROWS, golds, strict=True)
    ]
    found = task(tmp_path, model, ROWS, validation)
    assert found.metrics(predicted(found, found._train)) == {"f1": 100.0, "exact_match": 100.0}


def test_a_figure_that_is_not_measured(tmp_path, model):
    with pytest.raises(RecipeError, match="measures f1, exact_match"):
        task(tmp_path, model, ROWS, metric="best_f1")
    assert task(tmp_path, model, V2, metric="best_f1").metric == "best_f1"


def test_a_tokenizer_without_characters_is_refused(tmp_path, model):
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**sizes())).save_pretrained(tmp_path / "slow")
    (tmp_path / "slow" / "vocab.json").write_text(json.dumps({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "a": 4}))
    config = {"tokenizer_class": "CTRLTokenizer"}
    (tmp_path / "slow" / "merges.txt").write_text("#version: 0.2\na a</w>\n")
    (tmp_path / "slow" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="CTRLTokenizer is no fast tokenizer"):
        task(tmp_path, str(tmp_path / "slow"), ROWS)


# --- figures


def test_labels_as_predictions_are_all_right(tmp_path, model):
    assert task(tmp_path, model, ROWS).metrics(predicted(task(tmp_path, model, ROWS))) == {
        "f1": 100.0,
        "exact_match": 100.0,
    }
    found = task(tmp_path, model, V2)
    figures = found.metrics(predicted(found))
    assert figures["f1"] == figures["no_answer_f1"] == figures["has_answer_f1"] == figures["best_f1"] == 100.0


def test_a_null_threshold_decides_what_is_withheld(tmp_path, model):
    always, never = (task(tmp_path, model, V2, null_threshold=value) for value in (-1e9, 1e9))
    figures = always.metrics(predicted(always))
    assert (figures["has_answer_f1"], figures["no_answer_f1"]) == (0.0, 100.0)
    figures = never.metrics(predicted(never))
    assert (figures["has_answer_f1"], figures["no_answer_f1"]) == (100.0, 0.0)
    assert figures["best_f1"] == 100.0


@pytest.fixture(scope="module")
def with_v2(tmp_path_factory, model) -> QuestionAnswering:
    return task(tmp_path_factory.mktemp("v2"), model, V2)


@given(st.randoms())
def test_no_order_of_batches_matters_nor_what_comes_twice(with_v2, draw):
    found = with_v2
    numbers = np.array(found.validation()["window"])
    random = np.random.default_rng(draw.randrange(1000))
    start, end = (random.normal(size=(len(numbers), 32)).astype(np.float32) for _ in "se")
    expected = found.metrics(EvalPrediction(predictions=(start, end), label_ids=numbers))
    order = [*draw.sample(range(len(numbers)), len(numbers)), draw.randrange(len(numbers))]
    other = found.metrics(EvalPrediction(predictions=(start[order], end[order]), label_ids=numbers[order]))
    assert other == expected


def test_a_further_set_is_judged_by_its_own_rows(tmp_path, model):
    other = write(tmp_path / "other.jsonl", [row("who lives in rome?", "bob lives"), row("which pet?", "dog")])
    found = task(tmp_path, model, ROWS, further_validation={"other": str(other)})
    features = found.further_validation()["other"]
    assert not set(features["window"]) & set(found.validation()["window"])
    first = [
        window["begin"].index(CONTEXT.index("dog")) if CONTEXT.index("dog") in window["begin"] else 0
        for window in found._judged["other"].windows
    ]
    start = np.zeros((len(features), 32), np.float32)
    end = start.copy()
    for index, token in enumerate(first):
        if token:
            start[index, token] = end[index, token + 2] = 9
    figures = found.metrics(EvalPrediction(predictions=(start, end), label_ids=np.array(features["window"])))
    assert figures == {"f1": 50.0, "exact_match": 50.0}


# --- models


def test_a_new_head_has_a_start_and_an_end(tmp_path, model, trained):
    found = task(tmp_path, model, ROWS)
    assert found.load_model(model).config.num_labels == 2
    assert not found.has_trained_head(model)
    assert found.has_trained_head(trained)


def test_a_teacher_is_imitated_on_the_context_alone(tmp_path, trained):
    """The loss is T^2 KL over the tokens of the context and the one for no answer, mean of starts and ends."""
    found = task(tmp_path, trained, V2)
    other = write_model(tmp_path / "other", trained=True, seed=1)
    student, other = (found.load_model(path).double() for path in (trained, other))
    teacher = Teacher(other, found, DistillationSection(temperature=2.0, cross_entropy=0, logits=1, hidden_states=0))
    features = list(found.train())
    batch = found.collate([features[0], features[-1]])
    student.eval()
    outputs = student(**batch)
    loss = teacher.loss(outputs, batch)
    with torch.no_grad():
        theirs = other(**found.model_inputs(batch))
    expected = []
    for mine, their in ((outputs.start_logits, theirs.start_logits), (outputs.end_logits, theirs.end_logits)):
        for index in range(2):
            ids, types = batch["input_ids"][index], batch["token_type_ids"][index]
            keep = ((types == 1) & (ids != 3) & batch["attention_mask"][index].bool()) | (ids == 2)
            p, q = (torch.log_softmax(one[index][keep] / 2, 0) for one in (their, mine))
            expected.append(4 * (p.exp() * (p - q)).sum())
    assert float(loss.detach()) == pytest.approx(float(torch.stack(expected).mean().detach()), rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def recipe(folder: Path, model: str, rows: list[dict], **others) -> dict:
    files = {
        "train_file": str(write(folder / "t.jsonl", rows)),
        "validation_file": str(write(folder / "v.jsonl", rows)),
    }
    return {
        "model": model,
        "task": {"name": "question-answering", **files},
        "strategy": {"name": "structured", "density": 0.5},
        "training": {"max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
        "measure": {"batch_size": 1, "length": 384, "rounds": 3},
        "device": "cpu",
        "output": str(folder / "run"),
        **others,
    }


def test_a_run_from_end_to_end(tmp_path, trained):
    """With the dense model as teacher; what it leaves is verified and evaluated again."""
    manifest = run(validated(recipe(tmp_path, trained, V2)))
    assert manifest["teacher"] == "self"
    assert manifest["metric"]["name"] == "f1"
    assert {"best_f1", "no_answer_f1", "has_answer_exact_match"} <= manifest["metrics"]["pruned"].keys()
    assert manifest["verification"]["passed"]
    assert verify_run(tmp_path / "run").passed
    found = evaluate_folder(validated(recipe(tmp_path, trained, V2) | {"model": str(tmp_path / "run" / "model")}))
    assert found == pytest.approx(manifest["metrics"]["pruned"])


def test_training_learns_to_answer(tmp_path, model):
    """An answer is the one word in digits: what no untrained model finds."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(60):
        words = ["".join(draw.choice(list("abc"), 3)) for _ in range(4)]
        words[draw.integers(4)] = answer = "".join(draw.choice(list("0123"), 2))
        rows.append(row(f"q{number}", answer, " ".join(words)))
    training = {"max_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "logging_steps": 20}
    options = {"training": training, "strategy": {"name": "structured", "density": 0.9}}
    manifest = run(validated(recipe(tmp_path, model, rows, **options)))
    assert manifest["metrics"]["pruned"]["f1"] > 80


PRESETS = {"squad": ("rajpurkar/squad", None), "squad_v2": ("rajpurkar/squad_v2", True)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_all_but_the_model(name, tmp_path, monkeypatch, model):
    found = validated({"model": "bert-base-uncased", "task": name})
    assert (found.task.dataset, found.task.unanswerable) == PRESETS[name]
    assert (found.task.max_length, found.task.stride, found.measure.length) == (384, 128, 384)
    assert (found.training.batch_size, found.training.learning_rate) == (16, 3e-5)
    for split in ("train", "validation"):
        pd.DataFrame(V2 if name == "squad_v2" else ROWS).to_parquet(tmp_path / f"{name}-{split}.parquet")
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    assert QuestionAnswering(found.task, model).unanswerable == (name == "squad_v2")
