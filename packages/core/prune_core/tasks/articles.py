"""SQuAD's own files: articles of paragraphs of questions, all in one JSON object (arXiv:1606.05250)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

_BEGIN = re.compile(r'\s*\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:\s*\[')
_LONGEST_BEGIN = 1000
_ANSWER = {"text": Value("string"), "answer_start": Value("int64")}
_ROW = Features(
    {**{name: Value("string") for name in ("id", "title", "context", "question")}, "answers": List(_ANSWER)}
)


def is_of_articles(path: Path) -> bool:
    """Whether a JSON file begins as those of SQuAD do: {"version": ..., "data": [...]}."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _BEGIN.match(file.read(_LONGEST_BEGIN)) is not None


def questions(path: Path) -> Dataset:
    """A row for each question; no answers where it is impossible. ValueError where a part is missing."""
    now = path.stat()
    stamp = (now.st_mtime_ns, now.st_size)  # rows are kept on disk: those of another file are not these
    return Dataset.from_generator(_rows, features=_ROW, gen_kwargs={"path": str(path), "stamp": stamp})


def _rows(path: str, stamp: tuple[int, int]) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        for article in json.loads(Path(path).read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    number += 1
                    yield {"title": article.get("title"), "context": paragraph["context"], **_asked(question)}
    except KeyError as error:
        raise ValueError(
            f"it begins as a file of SQuAD, but behind question {number} there is no {error.args[0]!r}: data holds "
            "articles, those paragraphs, those context and qas, and those id, question and answers"
        ) from error


def _asked(question: dict[str, Any]) -> dict[str, Any]:
    answers = [] if question.get("is_impossible") else question["answers"]
    return {
        "id": str(question["id"]),
        "question": question["question"],
        "answers": [{name: answer[name] for name in _ANSWER} for answer in answers],
    }
