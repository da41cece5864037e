"""Spans of tagged words, such as the names in a sentence, and how well they are found."""

import re
from collections.abc import Sequence

Span = tuple[str, int, int]
"""Kind, index of the first word, index of the last word."""

_TAG = re.compile(r"[BIESLU](-.*)?|O", re.IGNORECASE)
_SAME = {"L": "E", "U": "S"}
"""The letters of BILOU for the last and the only word of a span."""


def mark_spans(names: Sequence[str]) -> bool:
    """Whether these tags are O and B-KIND, I-KIND (IOB1, IOB2, BIOES or BILOU): they mark spans, not single words."""
    return all(_TAG.fullmatch(name) for name in names) and any(name.upper() != "O" for name in names)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a text. A word goes on with the span before it where tags and kinds allow it, else it begins one.

    So is conlleval's reading, and seqeval's default: a span need not begin with B (Tjong Kim Sang, De Meulder 2003).
    """
    found: set[Span] = set()
    start, place, kind = 0, "O", ""
    for index, tag in enumerate([*tags, "O"]):
        now, its = _parts(tag)
        if place in "BI" and now in "IE" and its == kind:
            place = now
            continue
        if place != "O":
            found.add((kind, start, index - 1))
        start, place, kind = index, now, its
    return found


def span_figures(truths: Sequence[Sequence[str]], guesses: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the spans of all texts; 0 where there is nothing to divide by."""
    true, guessed, both = 0, 0, 0
    for truth, guess in zip(truths, guesses, strict=True):
        expected, found = spans(truth), spans(guess)
        true, guessed, both = true + len(expected), guessed + len(found), both + len(expected & found)
    return {
        "f1": 2 * both / max(true + guessed, 1),
        "precision": both / max(guessed, 1),
        "recall": both / max(true, 1),
    }


def _parts(tag: str) -> tuple[str, str]:
    place = tag[:1].upper()
    return _SAME.get(place, place), tag[2:]
