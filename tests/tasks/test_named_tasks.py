"""GLUE and the other tasks that are there by name: from PRUNE_DATA, from one's own files, their figures and errors."""

import re
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, List

from prune_core.errors import DataError, RecipeError
from prune_core.runs.configuring import validated
from prune_core.runs.preparation import make_job
from prune_core.runs.run import evaluate_folder

ACCEPTABLE, SIMILAR = ["unacceptable", "acceptable"], ["not_equivalent", "equivalent"]
NLI, ENTAILED = ["entailment", "neutral", "contradiction"], ["entailment", "not_entailment"]
CLASSES, SPANS = ["accuracy", "f1", "matthews"], ["accuracy", "f1", "precision", "recall"]

# name -> columns of texts, names of labels (None for numbers), the figure that it is judged by, all of its figures
GLUE = {
    "cola": (["sentence"], ACCEPTABLE, "matthews", CLASSES),
    "sst2": (["sentence"], ["negative", "positive"], "accuracy", CLASSES),
    "mrpc": (["sentence1", "sentence2"], SIMILAR, "f1", CLASSES),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"], "f1", CLASSES),
    "stsb": (["sentence1", "sentence2"], None, "pearson", ["pearson", "spearman"]),
    "mnli": (["premise", "hypothesis"], NLI, "accuracy", CLASSES),
    "qnli": (["question", "sentence"], ENTAILED, "accuracy", CLASSES),
    "rte": (["sentence1", "sentence2"], ENTAILED, "accuracy", CLASSES),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"], "accuracy", CLASSES),
}
PARTS = ("train", "validation")


def rows(name: str, columns: list[str], labels: list[str] | None) -> Dataset:
    """Six rows as the hub has them: an index and label names included."""
    data = {column: [f"{word} film" for word in ("good", "bad", "the", "a", "very", "long")] for column in columns}
    numbers = [5.0, 1.25, 0.0, 3.5, 2.0, 4.75] if labels is None else [row % len(labels) for row in range(6)]
    table = Dataset.from_dict({**data, "label": numbers, "idx": list(range(6))})
    return table if labels is None else table.cast_column("label", ClassLabel(names=labels))


@pytest.fixture
def glue(tmp_path, monkeypatch):
    """Puts a task's data under PRUNE_DATA, as NAME-SPLIT.parquet; gives the folder."""
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))

    def put(name: str) -> Path:
        both = ("validation_matched", "validation_mismatched") if name == "mnli" else ("validation",)
        for split in ("train", *both):
            table = rows(name, *GLUE[name][:2])
            (table.select(range(3)) if split.endswith("mismatched") else table).to_parquet(
                tmp_path / f"{name}-{split}.parquet"
            )
        return tmp_path

    return put


def evaluated(recipe) -> dict[str, float]:
    return evaluate_folder(recipe.model_copy(update={"device": "cpu"}))


@pytest.mark.parametrize("name", GLUE)
def test_glue_by_name(name, glue, text_model):
    columns, labels, metric, figures = GLUE[name]
    glue(name)
    head = {"num_labels": 1, "problem_type": "regression"} if labels is None else {"labels": labels}
    recipe = validated({"model": text_model(**{"labels": None, **head}), "task": name})
    found = make_job(recipe, "cpu").task
    assert (found.texts, found.label, found.metric) == (columns, "label", metric)
    assert (len(found.train()), len(found.validation())) == (6, 6)
    assert found.imitation == ("value" if labels is None else "distribution")
    if labels is not None:
        assert list(found.load_model(recipe.model).config.id2label.values()) == labels
        further = [f"{figure}_mismatched" for figure in figures] if name == "mnli" else []
        assert sorted(evaluated(recipe)) == sorted([*figures, *further])


def test_stsb_is_a_regression(glue, text_model, tmp_path):
    glue("stsb")
    recipe = validated({"model": text_model(), "task": "stsb"})
    found = make_job(recipe, "cpu").task
    model = found.load_model(recipe.model)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert found.validation()["labels"][:2] == [5.0, 1.25]
    model.save_pretrained(recipe.model)
    assert sorted(evaluated(recipe)) == ["pearson", "spearman"]


def test_stsb_with_whole_numbers_only_is_one_too(glue, text_model):
    folder = glue("stsb")
    for split in PARTS:
        whole = rows("stsb", ["sentence1", "sentence2"], NLI).remove_columns("label").add_column("label", [0, 1, 2] * 2)
        whole.to_parquet(folder / f"stsb-{split}.parquet")
    assert make_job(validated({"model": text_model(), "task": "stsb"}), "cpu").task.metric == "pearson"


def test_mnli_is_evaluated_on_both_of_its_sets(glue, text_model):
    glue("mnli")
    recipe = validated({"model": text_model(NLI), "task": "mnli"})
    found = make_job(recipe, "cpu").task
    further = found.further_validation()
    assert {name: len(features) for name, features in further.items()} == {"mismatched": 3}
    assert further["mismatched"]["input_ids"][:] == found.validation()["input_ids"][:3]
    assert 0 <= evaluated(recipe)["accuracy_mismatched"] <= 1


@pytest.mark.parametrize("name", GLUE)
def test_glue_on_files_of_ones_own(name, tmp_path, text_model, monkeypatch):
    monkeypatch.delenv("PRUNE_DATA", raising=False)
    columns, labels, metric, _ = GLUE[name]
    for part in PARTS:
        rows(name, columns, labels).to_parquet(tmp_path / f"{part}.parquet")
    files = {f"{part}_file": str(tmp_path / f"{part}.parquet") for part in PARTS}
    found = make_job(validated({"model": text_model(), "task": {"name": name, **files}}), "cpu").task
    assert (found.texts, found.metric, found.further_validation()) == (columns, metric, {})


def test_a_further_file_is_evaluated_as_well(tmp_path, text_model):
    for part in (*PARTS, "hard"):
        rows("sst2", ["sentence"], ["no", "yes"]).to_parquet(tmp_path / f"{part}.parquet")
    task = {"name": "sst2", **{f"{part}_file": str(tmp_path / f"{part}.parquet") for part in PARTS}}
    recipe = validated(
        {
            "model": text_model(["no", "yes"]),
            "task": {**task, "further_validation": {"hard": str(tmp_path / "hard.parquet")}},
        }
    )
    figures = evaluated(recipe)
    assert figures["accuracy_hard"] == figures["accuracy"]
    rows("sst2", ["sentence"], ["no", "yes", "maybe"]).to_parquet(tmp_path / "hard.parquet")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'hard.parquet'}: label 'maybe' in row 3")):
        evaluated(recipe)


def test_relative_further_files_mean_the_same_from_every_folder(tmp_path, monkeypatch):
    from prune_core.runs.configuring import resolved

    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "hard.csv"):
        (tmp_path / name).touch()
    task = {"name": "sst2", "train_file": "t.csv", "further_validation": {"hard": "hard.csv"}}
    assert resolved(validated({"model": "m", "task": task})).task.further_validation == {
        "hard": str(tmp_path / "hard.csv")
    }
    splits = resolved(validated({"model": "m", "task": "mnli"})).task.further_validation
    assert splits == {"mismatched": "validation_mismatched"}


def test_the_metric_may_be_chosen_and_a_wrong_one_is_named(glue, text_model):
    glue("mrpc")
    model = text_model()
    chosen = {"model": model, "task": {"name": "mrpc", "metric": "accuracy"}}
    assert make_job(validated(chosen), "cpu").task.metric == "accuracy"
    with pytest.raises(
        RecipeError, match=r"task.metric: unknown figure 'acuracy'; did you mean 'accuracy'\? .* accuracy, f1"
    ):
        make_job(validated({"model": model, "task": {"name": "mrpc", "metric": "acuracy"}}), "cpu")
    glue("stsb")
    with pytest.raises(RecipeError, match="unknown figure 'accuracy'; this task measures pearson, spearman"):
        make_job(validated({"model": model, "task": {"name": "stsb", "metric": "accuracy"}}), "cpu")


def test_conll2003_by_name(tmp_path, monkeypatch, tagger):
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    tags = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
    words = {"id": ["0", "1"], "tokens": [["good", "film", "a"], ["the"]], "pos_tags": [[1, 2, 3], [0]]}
    table = Dataset.from_dict({**words, "ner_tags": [[1, 2, 0], [7]]}).cast_column(
        "ner_tags", List(ClassLabel(names=tags))
    )
    for part in PARTS:
        table.to_parquet(tmp_path / f"conll2003-{part}.parquet")
    recipe = validated({"model": tagger(tags), "task": "conll2003"})
    found = make_job(recipe, "cpu").task
    assert (found.words, found.tags, found.metric) == ("tokens", "ner_tags", "f1")
    assert found.validation()["labels"][0][1:4] == [1, 2, 0]
    assert sorted(evaluated(recipe)) == SPANS


def test_swag_by_name(tmp_path, monkeypatch, chooser):
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    endings = {f"ending{index}": ["good film", "bad"] for index in range(4)}
    texts = {"video-id": ["x", "y"], "startphrase": ["a the"] * 2, "sent1": ["a"] * 2, "sent2": ["the"] * 2}
    table = Dataset.from_dict({**texts, "gold-source": ["gold"] * 2, **endings, "label": [3, 0]})
    for part in PARTS:
        table.cast_column("label", ClassLabel(num_classes=4)).to_parquet(tmp_path / f"swag-{part}.parquet")
    recipe = validated({"model": chooser(), "task": "swag"})
    found = make_job(recipe, "cpu").task
    first = found.processor.convert_ids_to_tokens(found.train()[0]["input_ids"][3])
    assert " ".join(first) == "[CLS] a [SEP] the good film [SEP]"
    assert found.train()["labels"][:] == [3, 0]
    assert list(evaluated(recipe)) == ["accuracy"]
