"""The scores of SQuAD (arXiv:1606.05250, arXiv:1806.03822), in percent, as its official scripts define them."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

Scores = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Answered:
    """Each example's given answer ("" for none) and its gold ones (none: it is unanswerable)."""

    texts: Sequence[str]
    golds: Sequence[Sequence[str]]


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous whitespace."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, gold: str) -> float:
    """1 where both are the same once normalized, else 0."""
    return float(normalized(text) == normalized(gold))


def token_f1(text: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the normalized words; of no words at all, 1 where both have none."""
    mine, theirs = normalized(text).split(), normalized(gold).split()
    if not mine or not theirs:
        return float(mine == theirs)
    same = sum((Counter(mine) & Counter(theirs)).values())
    precision, recall = same / len(mine), same / len(theirs)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def scores(answered: Answered) -> tuple[Scores, Scores]:
    """Exact match and F1 [examples], 0 to 1, each against the gold answer that it agrees with best."""
    pairs = [(text, golds or [""]) for text, golds in zip(answered.texts, answered.golds, strict=True)]
    exact = [max(exact_match(text, gold) for gold in golds) for text, golds in pairs]
    f1 = [max(token_f1(text, gold) for gold in golds) for text, golds in pairs]
    return np.array(exact, float), np.array(f1, float)


def figures(answered: Answered) -> dict[str, float]:
    """SQuAD 1.1: f1 and exact_match."""
    exact, f1 = scores(answered)
    return _percent("", exact, f1)


def figures_v2(answered: Answered, spans: Sequence[str], null_odds: Scores) -> dict[str, float]:
    """SQuAD 2.0: the same of all examples, of those that have an answer and of those that have none.

    And the best of both figures that any threshold gives: `spans` are the best answers that are no "no answer",
    `null_odds` [examples] by how much no answer scores above them.
    """
    golds = [[gold for gold in golds if normalized(gold)] for golds in answered.golds]
    exact, f1 = scores(Answered(answered.texts, golds))
    has = np.array([bool(golds) for golds in answered.golds], bool)
    found = _percent("", exact, f1)
    for name, group in (("has_answer_", has), ("no_answer_", ~has)):
        found |= _percent(name, exact[group], f1[group]) if group.any() else {}
    given = np.array([bool(span) for span in spans], bool)
    for name, score in zip(("exact_match", "f1"), scores(Answered(spans, golds)), strict=True):
        best, threshold = best_threshold(np.where(has, score, 0.0), has, null_odds, given)
        found |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
    return found


def best_threshold(score: Scores, has: Flags, null_odds: Scores, given: Flags) -> tuple[float, float]:
    """The highest mean, in percent, that a threshold on `null_odds` gives, and the lowest threshold that gives it.

    Of an example whose `null_odds` are at most the threshold counts its `score` (0 to 1; what it gets for its span), of
    the others whether it has no answer. Where no span is `given`, none is answered, whatever the threshold.
    """
    gain = np.where(given, np.where(has, score, -1.0), 0.0)
    order = np.argsort(null_odds, kind="stable")
    odds, total = null_odds[order], np.count_nonzero(~has) + np.cumsum(gain[order])
    last_of_equals = np.append(odds[1:] > odds[:-1], True)
    thresholds = np.append(np.nextafter(odds[0], -np.inf), odds[last_of_equals])
    totals = np.append(np.count_nonzero(~has), total[last_of_equals])
    best = int(totals.argmax())
    return float(100 * totals[best] / len(has)), float(thresholds[best])


def _percent(prefix: str, exact: Scores, f1: Scores) -> dict[str, float]:
    return {f"{prefix}f1": float(100 * f1.mean()), f"{prefix}exact_match": float(100 * exact.mean())}
