"""SQuAD's scores: against torchmetrics, the steps of the official script, hand-worked cases and properties."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text.squad import squad as torchmetrics_squad

from prune_core.tasks.squad import Answered, best_threshold, figures, figures_v2, normalized, scores

WORDS = [
    "the",
    "The",
    "a",
    "an",
    "Cat",
    "cat!",
    "cat,",
    "dog",
    "24-10",
    "2410",
    "U.S.",
    "us",
    "école",
    "—",
    "  ",
    "'",
    "\t",
]
texts = st.one_of(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), st.text(max_size=12))
example = st.tuples(texts, st.lists(texts, min_size=1, max_size=4))


def reference(texts, golds):
    predictions = [{"prediction_text": text, "id": str(i)} for i, text in enumerate(texts)]
    targets = [{"answers": {"answer_start": [0], "text": list(g)}, "id": str(i)} for i, g in enumerate(golds)]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return {name: float(value) for name, value in torchmetrics_squad(predictions, targets).items()}
    finally:
        torch.set_default_dtype(before)


@given(st.lists(example, min_size=1, max_size=20))
def test_it_agrees_with_torchmetrics(examples):
    texts, golds = zip(*examples, strict=True)
    found, expected = figures(Answered(texts, golds)), reference(texts, golds)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert math.isclose(found[name], value, rel_tol=0, abs_tol=1e-9), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat.", "cat"),
        ("An apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("24\u201310", "24\u201310"),  # string.punctuation is ASCII: this dash stays
        ("24-10", "2410"),
        ("a", ""),
        ("the-cat", "thecat"),  # punctuation goes before articles
        ("\u00a0x\ty\n", "x y"),
    ],
)
def test_texts_are_normalized_as_the_official_script_does(text, expected):
    assert normalized(text) == expected


@given(texts)
def test_words_are_lower_case_and_apart_by_one_space(text):
    found = normalized(text)
    assert found == " ".join(found.split()) == found.lower()
    assert not {"a", "an", "the"} & set(found.split())


@given(st.lists(example, min_size=1, max_size=10), st.randoms())
def test_no_order_of_examples_or_golds_matters(examples, draw):
    shuffled = [(text, draw.sample(golds, len(golds))) for text, golds in draw.sample(examples, len(examples))]
    one, other = (figures(Answered(*zip(*rows, strict=True))) for rows in (examples, shuffled))
    assert one == pytest.approx(other, abs=1e-9)


@given(example)
def test_exact_match_is_never_above_f1(one):
    exact, f1 = scores(Answered([one[0]], [one[1]]))
    assert 0 <= exact[0] <= f1[0] <= 1


V2 = [
    # answer given, best span, golds, null odds
    ("Denver Broncos", "Denver Broncos", ["Denver Broncos", "the Broncos"], -5.0),  # right
    ("", "in 1066", ["1066"], 1.0),  # half right, but withheld
    ("", "Normandy", [], 3.0),  # rightly withheld
    ("gold", "gold", [], -1.0),  # should have been withheld
]


def v2(rows=V2):
    given, spans, golds, odds = (list(column) for column in zip(*rows, strict=True))
    return figures_v2(Answered(given, golds), spans, np.array(odds))


def test_squad_2_worked_by_hand():
    """f1: 1, 0, 1, 0. With everything up to odds 1 answered, F1 is 1, 2/3, 1, 0 and exact match as before at -5."""
    found = v2()
    assert found == pytest.approx(
        {
            "f1": 50.0,
            "exact_match": 50.0,
            "has_answer_f1": 50.0,
            "has_answer_exact_match": 50.0,
            "no_answer_f1": 50.0,
            "no_answer_exact_match": 50.0,
            "best_f1": 75.0,
            "best_f1_threshold": -5.0,
            "best_exact_match": 75.0,
            "best_exact_match_threshold": -5.0,
        }
    )


def test_a_higher_threshold_can_be_the_best():
    rows = [("", "in 1066", ["1066"], 1.0), ("", "Normandy", [], 3.0), ("", "Rollo", ["Rollo"], 2.0)]
    found = v2(rows)
    assert found["f1"] == pytest.approx(100 / 3)
    assert found["best_f1"] == pytest.approx(100 * (2 / 3 + 1 + 1) / 3)
    assert found["best_f1_threshold"] == 2.0
    assert (found["best_exact_match"], found["best_exact_match_threshold"]) == (pytest.approx(200 / 3), 2.0)


def test_to_answer_nothing_can_be_the_best():
    found = v2([("x", "x", [], -3.0), ("y", "y", [], -4.0), ("z", "z", ["w"], -5.0)])
    assert found["best_f1"] == pytest.approx(200 / 3)
    assert found["best_f1_threshold"] < -5.0


def test_a_gold_answer_of_articles_alone_is_none():
    """The official script drops such golds: no answer is then right, and a word is not."""
    found = v2([("", "cat", ["the"], 1.0), ("cat", "cat", ["cat", "a"], -1.0), ("", "x", ["cat", "a"], 1.0)])
    assert found["exact_match"] == pytest.approx(200 / 3)


def test_groups_that_are_empty_have_no_figures():
    assert not any(name.startswith("no_answer") for name in v2(V2[:2]))
    assert not any(name.startswith("has_answer") for name in v2(V2[2:]))


def official(predictions, golds, odds):
    """evaluate-v2.0.py, step by step: `make_eval_dict`, `merge_eval`, `find_best_thresh`; odds are distinct."""

    def f1(gold, text):
        gold_words, words = normalized(gold).split(), normalized(text).split()
        same = sum((Counter(gold_words) & Counter(words)).values())
        if not gold_words or not words:
            return int(gold_words == words)
        if same == 0:
            return 0
        precision, recall = 1.0 * same / len(words), 1.0 * same / len(gold_words)
        return (2 * precision * recall) / (precision + recall)

    cleaned = {i: [gold for gold in golds[i] if normalized(gold)] or [""] for i in golds}
    raw = {i: max(f1(gold, predictions[i]) for gold in cleaned[i]) for i in golds}
    current = best = sum(1 for i in golds if not golds[i])
    for i in sorted(odds, key=lambda k: odds[k]):
        current += raw[i] if golds[i] else (-1 if predictions[i] else 0)
        best = max(best, current)
    return 100.0 * best / len(golds)


@given(st.lists(st.tuples(texts, st.lists(texts.filter(bool), max_size=2)), min_size=1, max_size=12), st.randoms())
def test_the_best_threshold_is_the_official_script_s(rows, draw):
    spans, golds = zip(*rows, strict=True)
    odds = draw.sample(range(-50, 50), len(rows))
    found = figures_v2(Answered(spans, golds), spans, np.array(odds, float))
    numbered = range(len(rows))
    expected = official(dict(enumerate(spans)), dict(enumerate(golds)), dict(zip(numbered, odds, strict=True)))
    assert found["best_f1"] == pytest.approx(expected, abs=1e-9)
    kept = [span if odd <= found["best_f1_threshold"] else "" for span, odd in zip(spans, odds, strict=True)]
    at_it = figures_v2(Answered(kept, golds), spans, np.array(odds, float))["f1"]
    # only a gold of articles alone, which the search counts as an answer, tells the two apart
    if all(normalized(gold) for row in golds for gold in row):
        assert at_it == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans(), st.integers(-2, 2)), min_size=1, max_size=9))
def test_no_threshold_is_better_than_the_best(rows):
    score, has, given_, odds = (np.array(column) for column in zip(*rows, strict=True))
    score = np.where(given_ & has, score / 4, 0.0)
    best, threshold = best_threshold(score, has, odds.astype(float), given_)

    def at(cut):
        answered = (odds <= cut) & given_
        return 100 * np.where(answered, np.where(has, score, 0.0), ~has).mean()

    assert best == pytest.approx(max(at(cut) for cut in np.arange(-3, 3)))
    assert at(threshold) == pytest.approx(best)
