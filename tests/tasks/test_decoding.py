"""Spans from logits: against a search of every pair, written without arrays."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_core.tasks.decoding import Windows, decode


def windows(example, context):
    """Windows of examples whose tokens, where they are context, cover two characters each, of which no two the same."""
    context = np.asarray(context, bool)
    places = 2 * np.arange(context.size).reshape(context.shape)
    begin, end = np.where(context, places, -1), np.where(context, places + 2, -1)
    return Windows(np.asarray(example), begin, end, np.zeros(len(context), int))


def brute_force(windows, logits, n_best, max_length):
    """Example -> (score, begin, end) of its best span (None for none), and the lowest score of no answer."""
    found, null = {}, {}
    for row, example in enumerate(windows.example):
        start, end = (one[row] for one in logits)
        tokens = [token for token in range(len(start)) if windows.begin[row, token] >= 0]
        starts, ends = (sorted(tokens, key=lambda token, of=one: (-of[token], token))[:n_best] for one in (start, end))
        found.setdefault(example, None)
        for first in starts:
            for last in ends:
                if first <= last < first + max_length:
                    score = np.float32(start[first]) + np.float32(end[last])
                    if found[example] is None or score > found[example][0]:
                        found[example] = (score, windows.begin[row, first], windows.end[row, last])
        none = np.float32(start[windows.null[row]]) + np.float32(end[windows.null[row]])
        null[example] = min(null.get(example, none), none)
    return found, null


@st.composite
def problems(draw):
    rows, tokens = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    seed, coarse = draw(st.integers(0, 2**16)), draw(st.booleans())
    random = np.random.default_rng(seed)
    example = np.sort(random.integers(0, 4, rows))
    context = random.random((rows, tokens)) < draw(st.sampled_from([0.0, 0.5, 0.9]))
    # few different values, so that there are equals
    logits = [random.integers(-2, 3, (rows, tokens)) if coarse else random.normal(size=(rows, tokens)) for _ in "se"]
    sizes = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return windows(example, context), tuple(one.astype(np.float32) for one in logits), *sizes


@given(problems())
def test_every_pair_searched_one_by_one_gives_the_same(problem):
    expected, null = brute_force(*problem)
    found = decode(*problem)
    assert found.example.tolist() == sorted(expected)
    for index, example in enumerate(found.example):
        assert found.null[index] == null[example]
        if expected[example] is None:
            assert (found.score[index], found.begin[index], found.end[index]) == (-np.inf, 0, 0)
            assert found.null_odds[index] > 1e30
        else:
            assert (found.score[index], found.begin[index], found.end[index]) == expected[example]


@given(problems())
def test_an_answer_lies_in_the_context_and_is_not_too_long(problem):
    found, max_length = decode(*problem), problem[3]
    there = found.score > -np.inf
    assert (found.begin[there] < found.end[there]).all()
    assert (found.end[there] - found.begin[there] <= 2 * max_length).all()


def test_padding_changes_nothing():
    random = np.random.default_rng(0)
    logits = tuple(random.normal(size=(3, 6)).astype(np.float32) for _ in "se")
    short = decode(windows([0, 0, 1], np.ones((3, 6))), logits, 3, 4)
    wide = tuple(np.pad(one, ((0, 0), (0, 5)), constant_values=-100) for one in logits)
    of = windows([0, 0, 1], np.ones((3, 6)))
    padded = Windows(
        of.example, *(np.pad(one, ((0, 0), (0, 5)), constant_values=-1) for one in (of.begin, of.end)), of.null
    )
    other = decode(padded, wide, 3, 4)
    for name in ("example", "begin", "end", "score", "null"):
        assert (getattr(short, name) == getattr(other, name)).all(), name


def test_no_answer_must_score_high_in_every_window():
    """The lowest of the windows counts: the one that holds the answer says so."""
    start = np.array([[5, 1, 0], [-4, 7, 0]], np.float32)
    end = np.array([[5, 1, 0], [-4, 0, 8]], np.float32)
    found = decode(windows([0, 0], [[False, True, True]] * 2), (start, end), 20, 30)
    assert (found.score[0], found.null[0], found.null_odds[0]) == (15, -8, -23)


def test_logits_that_are_no_number_are_no_answer():
    bad = np.full((1, 3), np.nan, np.float32)
    found = decode(windows([0], np.ones((1, 3))), (bad, bad), 2, 2)
    assert found.score[0] == -np.inf


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025])
def test_how_many_windows_are_taken_at_once_does_not_matter(rows):
    random = np.random.default_rng(rows)
    logits = tuple(random.normal(size=(rows, 5)).astype(np.float32) for _ in "se")
    of = windows(np.arange(rows), np.ones((rows, 5)))
    found = decode(of, logits, 5, 5)
    last = slice(-1, None)
    alone = decode(
        Windows(of.example[last], of.begin[last], of.end[last], of.null[last]), tuple(one[last] for one in logits), 5, 5
    )
    assert len(found.score) == rows
    assert (found.score[-1], found.begin[-1], found.end[-1]) == (alone.score[0], alone.begin[0], alone.end[0])


def test_thousands_of_windows_take_seconds():
    random = np.random.default_rng(0)
    logits = tuple(random.normal(size=(4000, 384)).astype(np.float32) for _ in "se")
    of = windows(np.arange(4000) // 2, random.random((4000, 384)) < 0.9)
    before = time.process_time()
    found = decode(of, logits, 20, 30)
    assert time.process_time() - before < 8
    assert len(found.example) == 2000
