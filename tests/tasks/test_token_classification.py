"""Token classification: columns, tags, words and their tokens, spans and figures, on files made here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction, PreTrainedTokenizerFast

from prune_core.errors import DataError, ModelError, RecipeError
from prune_core.task import IGNORED
from prune_core.tasks.config import TokenClassificationConfig
from prune_core.tasks.spans import mark_spans, span_figures, spans
from prune_core.tasks.token_classification import TokenClassification
from tests.tasks.conftest import WORDS

NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROWS = {
    "tokens": [["a", "good", "film"], ["bad"], ["the", "very", "long", "film"]],
    "ner_tags": [["O", "B-PER", "I-PER"], ["B-LOC"], ["O", "O", "B-LOC", "I-LOC"]],
}


def write(path: Path, rows: dict[str, list]) -> Path:
    path.write_text(
        "\n".join(json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True))
    )
    return path


def task(model: str, folder: Path, train: dict, validation: dict | None = None, **others) -> TokenClassification:
    section = TokenClassificationConfig(
        train_file=write(folder / "train.jsonl", train),
        validation_file=write(folder / "validation.jsonl", validation or train),
        **others,
    )
    return TokenClassification(section, model)


@pytest.fixture
def pieces(text_model):
    """Makes a tiny model whose tokenizer parts words in pieces: "longer" is lon ##g ##er."""

    def make(**others) -> str:
        folder = text_model(**others)
        words = [*WORDS[:5], "lon", "##g", "##er", "film", "a", "the", "bad"]
        parted = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        parted.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=parted, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
        return folder

    return make


def test_the_first_token_of_a_word_carries_its_tag(tmp_path, pieces):
    rows = {"words": [["a", "longer", "film"], ["long"]], "tags": [["O", "B-X", "I-X"], ["O"]]}
    found = task(pieces(), tmp_path, rows)
    features = found.train()
    assert features["input_ids"][:] == [[9, 5, 6, 7, 8], [5, 6]]
    names = {index: name for name, index in found.labels.ids.items()}
    first = [names.get(label) for label in features["labels"][0]]
    assert first == ["O", "B-X", None, None, "I-X"]
    assert features["labels"][1][1] == IGNORED
    batch = found.collate(list(features))
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 5)
    assert batch["labels"][1, 2:].tolist() == [IGNORED] * 3
    assert found.counted(batch).sum() == 4


def test_columns_are_found_by_their_usual_names_and_may_be_named(tmp_path, text_model):
    model = text_model()
    both = {**ROWS, "pos_tags": [["D", "J", "N"], ["J"], ["D", "R", "J", "N"]]}
    assert task(model, tmp_path, both).tags == "ner_tags"
    found = task(model, tmp_path, both, columns={"tags": "pos_tags"})
    assert (found.words, found.tags, found.metric) == ("tokens", "pos_tags", "accuracy")
    other = {"text": ROWS["tokens"], "entities": ROWS["ner_tags"]}
    found = task(model, tmp_path, other, columns={"tokens": "text", "tags": "entities"})
    assert (found.words, found.tags, found.metric) == ("text", "entities", "f1")


def test_tags_may_be_names_numbers_or_class_labels(tmp_path, text_model):
    model = text_model()
    ids = [[NER.index(tag) for tag in tags] for tags in ROWS["ner_tags"]]
    numbered = {**ROWS, "ner_tags": [*ids[:2], [0, 0, 3, 4]]}
    plain = task(model, tmp_path, numbered)
    assert plain.new_head()["id2label"][1] == "LABEL_1"
    assert plain.metric == "accuracy"
    named = task(model, tmp_path, numbered, tag_names=NER)
    assert list(named.new_head()["id2label"].values()) == NER
    assert named.metric == "f1"
    rows = Dataset.from_dict({"tokens": ROWS["tokens"], "ner_tags": ids})
    rows.cast_column("ner_tags", List(ClassLabel(names=NER))).to_parquet(tmp_path / "t.parquet")
    typed = TokenClassification(TokenClassificationConfig(train_file=tmp_path / "t.parquet"), model)
    assert list(typed.new_head()["id2label"].values()) == NER
    assert typed.train()["labels"][0][1:-1] in [[0, 1, 2], [3], [0, 0, 3, 4]]


def test_class_labels_may_differ_in_order(tmp_path, text_model):
    turned = NER[::-1]
    for name, names in (("train", NER), ("validation", turned)):
        ids = [[names.index(tag) for tag in tags] for tags in ROWS["ner_tags"]]
        rows = Dataset.from_dict({"tokens": ROWS["tokens"], "ner_tags": ids})
        rows.cast_column("ner_tags", List(ClassLabel(names=names))).to_parquet(tmp_path / f"{name}.parquet")
    files = {f"{name}_file": tmp_path / f"{name}.parquet" for name in ("train", "validation")}
    found = TokenClassification(TokenClassificationConfig(**files), text_model())
    assert found.train()["labels"][:] == found.validation()["labels"][:]


def test_a_head_with_the_same_tags_keeps_its_order(tmp_path, tagger):
    order = ["B-LOC", "O", "I-PER", "I-LOC", "B-PER"]
    folder = tagger(order)
    found = task(folder, tmp_path, ROWS)
    assert found.has_trained_head(folder)
    assert found.train()["labels"][0] == [IGNORED, 1, 4, 2, IGNORED]
    again, before = found.load_model(folder), found.load_model(folder)
    assert list(again.config.id2label.values()) == order
    assert torch.equal(again.classifier.weight, before.classifier.weight)
    assert not found.has_trained_head(tagger(["O", "B-PER", "I-PER"], name="fewer"))


def test_numbers_take_the_names_of_the_models_own_tags(tmp_path, tagger, text_model):
    numbers = {**ROWS, "ner_tags": [[0, 1, 2], [3], [0, 0, 3, 4]]}
    found = task(tagger(NER), tmp_path, numbers)
    assert (found.names, found.metric) == (tuple(NER), "f1")
    assert found.has_trained_head(found.source)
    assert task(text_model(NER, name="texts"), tmp_path, numbers).metric == "accuracy"  # a head for whole texts


def test_numbers_that_are_the_names_of_the_models_tags_are_no_ids(tmp_path, tagger):
    rows = {"tokens": [["a", "film", "the"]], "ner_tags": [[1, IGNORED, 2]]}
    section = TokenClassificationConfig(validation_file=write(tmp_path / "validation.jsonl", rows))
    found = TokenClassification(section, tagger(["1", "2", "3"]))
    assert found.has_trained_head(found.source)
    assert found.validation()["labels"][0] == [IGNORED, 0, IGNORED, 1, IGNORED]


def test_a_head_for_whole_texts_does_not_tag_words(tmp_path, text_model, caplog):
    caplog.set_level("INFO")
    found = task(text_model(sorted(NER), name="texts"), tmp_path, ROWS)
    of_texts = AutoModelForSequenceClassification.from_pretrained(found.source)
    assert not torch.equal(found.load_model(found.source).classifier.weight, of_texts.classifier.weight)
    assert "has classifier.weight, classifier.bias of other labels: they start at random" in caplog.text


def test_a_new_head_has_the_names_of_the_tags(tmp_path, text_model):
    found = task(text_model(), tmp_path, ROWS)
    model = found.load_model(found.source)
    assert type(model).__name__ == "BertForTokenClassification"
    assert list(model.config.id2label.values()) == sorted(NER)
    assert model.classifier.out_features == 5
    assert model(**found.collate(list(found.train()))).loss.isfinite()


def test_words_behind_the_limit_are_said_and_do_not_count(tmp_path, text_model, caplog):
    found = task(text_model(), tmp_path, ROWS, max_length=5)
    features = found.validation()
    assert [len(ids) for ids in features["input_ids"]] == [5, 3, 5]
    assert found.validation() is features
    assert caplog.text.count("validation.jsonl: 1 of 8 words lie behind the first 5 tokens") == 1
    with pytest.raises(DataError, match="no word has a token among the first 2"):
        task(found.source, tmp_path, ROWS, max_length=2).train()


def test_rows_without_words_are_left_out_and_said(tmp_path, text_model, caplog):
    rows = {"tokens": [["a"], [], ["film"]], "tags": [["O"], [], ["B-X"]]}
    assert len(task(text_model(), tmp_path, rows).train()) == 2
    assert "train.jsonl: 1 rows without words are left out" in caplog.text
    strings = Features({"tokens": List(Value("string")), "tags": List(Value("string"))})
    Dataset.from_dict({"tokens": [[]], "tags": [[]]}, strings).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no row holds a word"):
        TokenClassification(TokenClassificationConfig(train_file=tmp_path / "none.parquet"), text_model())


def test_words_without_a_tag_do_not_count_and_texts_without_any_are_left_out(tmp_path, text_model, caplog):
    rows = {"tokens": [["a", "good", "film"], ["bad"], [" "]], "tags": [[0, IGNORED, 1], [IGNORED], [1]]}
    found = task(text_model(), tmp_path, rows)
    assert found.names == ("LABEL_0", "LABEL_1"), "-100 is no tag"
    assert [ids[1:-1] for ids in found.train()["labels"]] == [[0, IGNORED, 1]]
    assert "3 of 5 words" in caplog.text


def test_byte_level_tokenizers_see_the_space_before_every_word(tmp_path, text_model):
    folder = text_model()
    words, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(False)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet)
    words.train_from_iterator(["a good film", "the film"] * 20, trainer)
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
    found = task(folder, tmp_path, {"tokens": [["good", "film"]] * 2, "tags": [["O", "B-X"]] * 2})
    assert found.processor.convert_ids_to_tokens(found.train()["input_ids"][0]) == ["Ġgood", "Ġfilm"]
    found.processor.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(["good", "film"], is_split_into_words=True)["input_ids"] == found.train()["input_ids"][0]


FAULTS = {
    "no tags": ({"tokens": [["a"]], "tgs": [["O"]]}, {}, r"no column 'ner_tags' or .*found tokens, tgs; .*tags="),
    "role": (ROWS, {"columns": {"tag": "ner_tags"}}, r"unknown role 'tag'; did you mean 'tags'"),
    "column": (ROWS, {"columns": {"tags": "ner_tag"}}, r"no column 'ner_tag' for tags; did you mean 'ner_tags'"),
    "text": ({"tokens": ["a b"], "tags": [["O"]]}, {}, r"'tokens' holds .*string.*tokens must be lists of strings"),
    "numbers": ({"tokens": [[1, 2]], "tags": [["O", "O"]]}, {}, r"column 'tokens' holds .*int64"),
    "one tag a text": ({"tokens": [["a"]], "tags": ["O"]}, {}, r"'tags' holds .*lists of names or whole numbers"),
    "decimals": ({"tokens": [["a"]], "tags": [[0.5]]}, {}, r"column 'tags' holds"),
    "fewer tags": ({"tokens": [["a"], ["a", "b"]], "tags": [["O"], ["O"]]}, {}, r"row 2 has 2 tokens and 1 tags"),
    "hole": ({"tokens": [["a"], ["a", None]], "tags": [["O"], ["O", "X"]]}, {}, r"no tokens in row 2 "),
    "no row": ({"tokens": [["a"], ["b"]], "tags": [["O"], None]}, {}, r"no tags in row 2"),
    "one label": ({"tokens": [["a"]], "tags": [["O"]]}, {}, r"'O' is the only label"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_data_are_one_line(tmp_path, text_model, fault):
    rows, options, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        task(text_model(), tmp_path, rows, **options)
    assert "\n" not in str(error.value)


def test_a_tag_that_training_lacks_is_named_with_its_row(tmp_path, text_model):
    other = {**ROWS, "ner_tags": [*ROWS["ner_tags"][:2], ["O", "O", "B-ORG", "I-LOC"]]}
    with pytest.raises(
        DataError, match=r"validation.jsonl: label 'B-ORG' in row 3 .*not among the training labels B-LOC"
    ):
        task(text_model(), tmp_path, ROWS, other)


def test_the_metric_may_be_chosen_among_those_of_the_tags(tmp_path, text_model):
    model = text_model()
    assert task(model, tmp_path, ROWS, metric="recall").metric == "recall"
    with pytest.raises(RecipeError, match=r"task.metric: unknown figure 'f2'; did you mean 'f1'"):
        task(model, tmp_path, ROWS, metric="f2")
    pos = {"tokens": [["a", "film"]], "pos_tags": [["D", "N"]]}
    with pytest.raises(RecipeError, match="unknown figure 'f1'; this task measures accuracy"):
        task(model, tmp_path, pos, metric="f1")


def test_a_tokenizer_that_does_not_know_words_is_refused(tmp_path, text_model, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr("prune_core.tasks.tokens.load_tokenizer", lambda model: Slow())
    with pytest.raises(ModelError, match="cannot say which word a token is of"):
        task(text_model(), tmp_path, ROWS)


TAGS = ["O", *(f"{place}-{kind}" for place in "BIES" for kind in ("PER", "LOC"))]


@given(st.lists(st.lists(st.sampled_from(TAGS), min_size=1, max_size=8), min_size=1, max_size=4), st.randoms())
def test_figures_of_spans_are_seqevals(truths, random):
    guesses = [[tag if random.random() < 0.6 else random.choice(TAGS) for tag in tags] for tags in truths]
    for true, guessed in ((truths, guesses), (guesses, truths)):
        figures = span_figures(true, guessed)
        assert figures["f1"] == pytest.approx(f1_score(true, guessed, zero_division=0), abs=1e-12)
        assert figures["precision"] == pytest.approx(precision_score(true, guessed, zero_division=0), abs=1e-12)
        assert figures["recall"] == pytest.approx(recall_score(true, guessed, zero_division=0), abs=1e-12)


def test_spans_by_hand():
    assert spans(["B-PER", "I-PER", "B-PER", "O", "I-LOC"]) == {("PER", 0, 1), ("PER", 2, 2), ("LOC", 4, 4)}
    assert spans(["I-PER", "I-LOC", "E-LOC", "S-LOC", "I-LOC"]) == {
        ("PER", 0, 0),
        ("LOC", 1, 2),
        ("LOC", 3, 3),
        ("LOC", 4, 4),
    }
    assert spans(["B-X", "I-X", "L-X", "U-X", "L-X"]) == spans(["B-X", "I-X", "E-X", "S-X", "E-X"])
    assert spans(["O", "O"]) == set()
    assert span_figures([["O"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


@pytest.mark.parametrize(
    ("names", "marked"),
    [(NER, True), (["O", "B", "I"], True), (["O", "I-A"], True), (["NOUN", "VERB", "O"], False), (["O"], False),
     (["LABEL_0", "LABEL_1"], False), (["B-NP", "I-NP", "X"], False)],
)  # fmt: skip
def test_which_tags_mark_spans(names, marked):
    assert mark_spans(names) is marked


def test_figures_leave_out_what_does_not_count(tmp_path, tagger):
    found = task(tagger(NER), tmp_path, ROWS)
    truths = np.array([[IGNORED, 1, 2, 0, IGNORED], [IGNORED, 3, IGNORED, IGNORED, IGNORED]])
    guesses = np.array([[3, 1, 2, 3, 1], [0, 4, 1, IGNORED, IGNORED]])
    figures = found.metrics(EvalPrediction(guesses, truths))
    # spans: PER 0-1, LOC 2 and LOC 0 were found; PER 0-1 and LOC 0 are there
    assert figures == pytest.approx({"accuracy": 0.5, "f1": 0.8, "precision": 2 / 3, "recall": 1.0})
