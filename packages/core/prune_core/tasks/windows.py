"""Windows: question and a part of the context, as many of them as it takes to read the whole context.

The question comes first, only the context is cut, and neighbouring windows share `stride` tokens of it. Texts are
always padded on the right, so a token's place in a window is its place in the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_core.errors import RecipeError
from prune_core.tasks.answers import Answer, Columns
from prune_core.tasks.decoding import Windows

MARKS = ("begin", "end", "null", "opens")
"""Columns of validation features that decoding needs and a model does not."""


@dataclass(frozen=True)
class Sizes:
    """Tokens of a window, of what neighbours share, and of the longest question."""

    window: int
    stride: int
    question: int

    @classmethod
    def fitting(cls, window: int, stride: int, question: int, specials: int) -> Sizes:
        """As asked, with `specials` tokens around question and context; at least half of the window is context, and
        each window has as much of it that is new as it shares. RecipeError where nothing fits in.
        """
        room = window - specials
        if room < 2:
            raise RecipeError(f"task.max_length: {window} tokens hold no question and context; {specials + 2} at least")
        question = min(question, room // 2)
        return cls(window, min(stride, (room - question) // 2), question)


def encoded(batch: dict[str, list[Any]], tokenizer: Any, columns: Columns, sizes: Sizes) -> Any:
    """The tokens of all windows of a batch of rows, with the characters that each of them covers."""
    return tokenizer(
        _shortened(batch[columns.question], tokenizer, sizes.question),
        batch[columns.context],
        truncation="only_second",
        max_length=sizes.window,
        stride=sizes.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def training_windows(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Windows with the first and last token of the answer; both are the token for no answer where it is not in it."""
    tokenizer, columns = options["tokenizer"], Columns(**options["columns"])
    encoding = encoded(batch, tokenizer, columns, Sizes(**options["sizes"]))
    golds = [answers for _, answers in columns.read(batch)]
    spans = []
    for index, example in enumerate(encoding["overflow_to_sample_mapping"]):
        offsets, tokens = encoding["offset_mapping"][index], _context(encoding.sequence_ids(index))
        span = _span(offsets, tokens, golds[example][0]) if golds[example] else None
        spans.append(span or (null_token(encoding["input_ids"][index], tokenizer),) * 2)
    starts, ends = ([span[side] for span in spans] for side in (0, 1))
    return {**_inputs(encoding, tokenizer), "start_positions": starts, "end_positions": ends}


def validation_windows(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Windows with the characters of each token of the context, -1 for all others, the token for no answer, and whether
    a window is the first of its example.
    """
    tokenizer = options["tokenizer"]
    encoding = encoded(batch, tokenizer, Columns(**options["columns"]), Sizes(**options["sizes"]))
    examples = encoding["overflow_to_sample_mapping"]
    marked = []
    for index, offsets in enumerate(encoding["offset_mapping"]):
        table = np.full((len(offsets), 2), -1, np.int32)
        tokens = _context(encoding.sequence_ids(index))
        table[tokens] = np.asarray(offsets, np.int32)[tokens]
        marked.append(table)
    return {
        **_inputs(encoding, tokenizer),
        "begin": [table[:, 0] for table in marked],
        "end": [table[:, 1] for table in marked],
        "null": [null_token(ids, tokenizer) for ids in encoding["input_ids"]],
        "opens": [index == 0 or examples[index - 1] != example for index, example in enumerate(examples)],
    }


def decodable(features: Any, chosen: Any, width: int) -> Windows:
    """What decoding needs of the `chosen` ones of validation features, for logits of `width` tokens."""
    example = np.cumsum(np.asarray(features["opens"][:])) - 1
    marks = features.select_columns(["begin", "end", "null"]).select(chosen).with_format("numpy")[:]
    sides = {name: np.full((len(chosen), width), -1, np.int32) for name in ("begin", "end")}
    for name, table in sides.items():
        for row, values in enumerate(marks[name]):
            table[row, : len(values)] = values
    return Windows(example[chosen], sides["begin"], sides["end"], np.asarray(marks["null"]))


def null_token(ids: Sequence[int], tokenizer: Any) -> int:
    """Index of the token that stands for no answer: the classification token, else the first."""
    mark = tokenizer.cls_token_id
    return list(ids).index(mark) if mark is not None and mark in ids else 0


def context_tokens(ids: Tensor, attended: Tensor, tokenizer: Any) -> Tensor:
    """Where windows [batch, tokens] hold context, or the token for no answer: what lies behind the first separator."""
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    none = torch.zeros_like(ids, dtype=torch.bool)
    attended = attended.bool()
    separators = (ids == separator) & attended if separator is not None else none
    behind = (separators.cumsum(-1) > 0) | ~separators.any()
    null = ids == tokenizer.cls_token_id if tokenizer.cls_token_id is not None else none
    null = null | (~null.any(-1, keepdim=True) & (torch.arange(ids.shape[-1], device=ids.device) == 0))
    return attended & (behind & ~separators | null)


def _shortened(questions: list[str], tokenizer: Any, limit: int) -> list[str]:
    """The questions, cut behind their `limit`-th token."""
    options = {"add_special_tokens": False, "truncation": True, "max_length": limit, "return_offsets_mapping": True}
    offsets = tokenizer(questions, **options)["offset_mapping"]
    return [text[: ends[-1][1]] if len(ends) == limit else text for text, ends in zip(questions, offsets, strict=True)]


def _inputs(encoding: Any, tokenizer: Any) -> dict[str, Any]:
    return {name: encoding[name] for name in tokenizer.model_input_names if name in encoding}


def _context(sequence: list[int | None]) -> slice:
    """The tokens of the second text."""
    count = sequence.count(1)
    start = sequence.index(1) if count else 0
    return slice(start, start + count)


def _span(offsets: list[tuple[int, int]], context: slice, answer: Answer) -> tuple[int, int] | None:
    """First and last token of an answer; None where it does not lie wholly in the window."""
    assert answer.start is not None  # checked before
    begin, end, tokens = answer.start, answer.start + len(answer.text), range(context.start, context.stop)
    if not tokens or offsets[tokens[0]][0] > begin or offsets[tokens[-1]][1] < end:
        return None
    first = next(token for token in tokens if offsets[token][1] > begin)
    last = next(token for token in reversed(tokens) if offsets[token][0] < end)
    return (first, last) if first <= last else None
