"""From the logits of windows to the best span of each example: all of it in arrays, no loop over examples.

A window is a part of an example's context that the model reads at once. A span lies in one window; the best one of an
example is the best of all its windows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]

_AT_ONCE = 1024
"""Windows whose pairs of starts and ends are held in memory together."""
_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class Windows:
    """Of which example a window is [windows], ascending; and of its tokens [windows, tokens] the characters of the
    context where they begin and end, -1 for tokens that are not of the context. `null`: the token for no answer.
    """

    example: Numbers
    begin: Numbers
    end: Numbers
    null: Numbers


@dataclass(frozen=True)
class Spans:
    """The best span of each example [examples]: its characters, and its score, -inf where there is none.

    `null` is the score of no answer, the lowest of all windows, for it has to be no answer in each of them.
    """

    example: Numbers
    begin: Numbers
    end: Numbers
    score: Numbers
    null: Numbers

    @property
    def null_odds(self) -> Numbers:
        """By how much no answer scores above the best span; a very large number where there is no span."""
        odds: Numbers = np.minimum(self.null - self.score, np.finfo(np.float32).max)
        return odds


def decode(windows: Windows, logits: tuple[Numbers, Numbers], n_best: int, max_length: int) -> Spans:
    """The best span of each example that `windows` has, by the sum of its start and end logits [windows, tokens].

    In each window the `n_best` starts and ends of the context are paired; a span has `max_length` tokens at most. Of
    equals the first window, and in it the one with the higher start, counts: no order of windows or batches matters.
    """
    start, end = (np.asarray(one, np.float32) for one in logits)
    context = windows.begin >= 0
    score, first, last = _best_of_windows((start, end), context, n_best, max_length)
    row = np.arange(len(score))
    null = start[row, windows.null] + end[row, windows.null]
    best = _first_of_each(windows.example, np.lexsort((-score, windows.example)))
    lowest = _first_of_each(windows.example, np.lexsort((null, windows.example)))
    found = score[best] > _NEVER
    return Spans(
        example=windows.example[best],
        begin=np.where(found, windows.begin[best, first[best]], 0),
        end=np.where(found, windows.end[best, last[best]], 0),
        score=score[best].astype(float),
        null=null[lowest].astype(float),
    )


def _best_of_windows(
    logits: tuple[Numbers, Numbers], context: Numbers, n_best: int, max_length: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Score (-inf where there is none), first and last token of the best span of each window."""
    chunks = []
    for at in range(0, len(context), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        start, end = (np.where(context[part], one[part], _NEVER) for one in logits)
        chunks.append(_best_pairs(start, end, n_best, max_length))
    score, first, last = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return score, first, last


def _best_pairs(start: Numbers, end: Numbers, n_best: int, max_length: int) -> tuple[Numbers, Numbers, Numbers]:
    starts, ends = (np.argsort(-one, axis=1, kind="stable")[:, :n_best] for one in (start, end))
    length = ends[:, None, :] - starts[:, :, None] + 1
    sums = np.take_along_axis(start, starts, 1)[:, :, None] + np.take_along_axis(end, ends, 1)[:, None, :]
    sums = np.where((length >= 1) & (length <= max_length) & ~np.isnan(sums), sums, _NEVER)
    flat = sums.reshape(len(sums), -1)
    row, pick = np.arange(len(flat)), flat.argmax(axis=1)
    return flat[row, pick], starts[row, pick // ends.shape[1]], ends[row, pick % ends.shape[1]]


def _first_of_each(group: Numbers, order: Numbers) -> Numbers:
    """Of indices `order`, sorted by `group`, the first of each group."""
    return order[np.unique(group[order], return_index=True)[1]]
