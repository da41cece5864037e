"""Extractive question answering: the answer is a span of the context, or, in data like SQuAD 2.0, there may be none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from prune_core.errors import ModelError
from prune_core.task import choose_metric
from prune_core.tasks import squad
from prune_core.tasks.answers import ROLES, Columns, check_answers, golds_of
from prune_core.tasks.config import QuestionAnsweringConfig
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.decoding import Spans, decode
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized, with_padding
from prune_core.tasks.windows import MARKS, Sizes, context_tokens, decodable, training_windows, validation_windows

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedConfig

_OUTSIDE = -1e4
"""Logit of tokens that are no answer: of no weight in a softmax, and small enough for float16."""


@dataclass(frozen=True)
class _Judged:
    """A validation set: its rows, their windows, and the number of the first window among those of all sets."""

    table: Table
    windows: Dataset
    first: int

    @cached_property
    def features(self) -> Dataset:
        """What batches are made of: the windows, numbered."""
        numbers = list(range(self.first, self.first + len(self.windows)))
        return self.windows.remove_columns(list(MARKS)).add_column("window", numbers)


class QuestionAnswering(TabularTask):
    """Spans of contexts. A context that is too long is read in windows; figures are of examples, not of windows.

    A json file may be one of SQuAD's own, with articles of paragraphs.
    """

    section: QuestionAnsweringConfig
    roles: ClassVar[tuple[str, ...]] = ROLES
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    head: ClassVar[str] = "ForQuestionAnswering"

    def prepare(self, tables: Tables) -> Tables:
        tables = tables.map(lambda table: self._columns(table).only(table))
        self.unanswerable = self._checked(tables)
        self.metric = choose_metric(self.section.metric, self._figures())
        self.processor = _fast_tokenizer(self.source)
        self.inputs = tuple(self.processor.model_input_names)
        self.sizes = self._sizes()
        return tables

    def new_head(self) -> dict[str, Any]:
        return {"num_labels": 2}  # a start and an end

    def fits(self, config: PreTrainedConfig) -> bool:
        return config.num_labels == 2

    def features(self, table: Table) -> Dataset:
        return self._windows(table, training_windows)

    def validation(self) -> Dataset:
        self._need(self._validation, "validation", "--validation-file")
        return self._judged[""].features

    def further_validation(self) -> dict[str, Dataset]:
        return {name: judged.features for name, judged in self._judged.items() if name}

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        options = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        return dict(pad_without_fast_tokenizer_warning(self.processor, features, **options))

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Start and end logits [windows, tokens], and the numbers of the windows."""
        outputs = model(**self.model_inputs(batch))
        return (outputs.start_logits.float(), outputs.end_logits.float()), batch["window"]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """f1 and exact_match in percent, of the examples that have a window among those predicted.

        With unanswerable questions those of examples with and without an answer too, and the best of any threshold.
        """
        judged, spans = self._decoded(prediction)
        rows = list(golds_of(judged.table, self._columns(judged.table)))
        golds = [[gold.text for gold in rows[index][1]] for index in spans.example]
        places = zip(spans.example, spans.begin, spans.end, strict=True)
        texts = [rows[index][0][begin:end] for index, begin, end in places]
        if not self.unanswerable:
            return squad.figures(squad.Answered(texts, golds))
        odds = spans.null_odds
        null = odds > self.section.null_threshold
        given = ["" if nothing else text for text, nothing in zip(texts, null, strict=True)]
        return squad.figures_v2(squad.Answered(given, golds), texts, odds)

    def taught(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Logits [batch, tokens] of starts and ends, no weight on padding and question: there is no answer."""
        context = context_tokens(batch["input_ids"], batch["attention_mask"], self.processor)
        pairs = (("start", outputs.start_logits), ("end", outputs.end_logits))
        return {name: logits.masked_fill(~context, _OUTSIDE) for name, logits in pairs}

    @cached_property
    def _judged(self) -> dict[str, _Judged]:
        """Validation sets by name, the first of them without one."""
        found: dict[str, _Judged] = {}
        first = 0
        for name, table in (({"": self._validation} if self._validation else {}) | self._further).items():
            found[name] = _Judged(table, self._windows(table, validation_windows), first)
            first += len(found[name].windows)
        return found

    def _decoded(self, prediction: EvalPrediction) -> tuple[_Judged, Spans]:
        numbers, places = np.unique(np.asarray(prediction.label_ids), return_index=True)
        judged = max((one for one in self._judged.values() if one.first <= numbers[0]), key=lambda one: one.first)
        start, end = (np.asarray(logits)[places] for logits in prediction.predictions)
        windows = decodable(judged.windows, numbers - judged.first, start.shape[1])
        return judged, decode(windows, (start, end), self.section.n_best, self.section.max_answer_length)

    def _columns(self, table: Table) -> Columns:
        return Columns.find(table, self.section.columns)

    def _checked(self, tables: Tables) -> bool:
        """Whether questions may have no answer: as the recipe says, else where one has none."""
        asked = self.section.unanswerable
        found = [
            check_answers(table, self._columns(table), train=table is tables.train, unanswerable=asked)
            for table in tables.present()
        ]
        return any(found) if asked is None else asked

    def _figures(self) -> tuple[str, ...]:
        return ("f1", "exact_match", *(("best_f1", "best_exact_match") if self.unanswerable else ()))

    def _sizes(self) -> Sizes:
        section, tokenizer = self.section, self.processor
        window = length_limit(section.max_length, tokenizer, self.config)
        specials = tokenizer.num_special_tokens_to_add(pair=True)
        return Sizes.fitting(window, section.stride, section.max_question_length, specials)

    def _windows(self, table: Table, function: Any) -> Dataset:
        options = {"columns": asdict(self._columns(table)), "sizes": asdict(self.sizes)}
        return tokenized(table, function, tokenizer=self.processor, **options)


def _fast_tokenizer(model: str) -> Any:
    """The tokenizer of a model; ModelError where it does not tell which characters a token stands for."""
    tokenizer = load_tokenizer(model)
    if not tokenizer.is_fast:
        raise ModelError(
            f"{model}: {type(tokenizer).__name__} is no fast tokenizer, and question answering needs to know which "
            "characters a token stands for; take a model with a tokenizer.json"
        )
    return with_padding(tokenizer, model)
