"""A text from a text, by generation: summaries and translations."""

from __future__ import annotations

import logging
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from transformers import DataCollatorForSeq2Seq, GenerationConfig

from prune_core.errors import DataError, ModelError
from prune_core.task import IGNORED, choose_metric
from prune_core.tasks.config import SequenceToSequenceConfig, SummarizationConfig, TranslationConfig
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.languages import STARTS_WITH_LANGUAGE, family, first_tokens, set_languages
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.text_metrics import TRANSLATION, Scorer, rouge, translation_scores
from prune_core.tasks.texts import read_inputs, require_head_class, require_text, text_column
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

SOURCES = ("document", "dialogue", "article", "text", "source")
SUMMARIES = ("summary", "highlights", "abstract", "target")
_PAIRS = "translation"
"""Column that holds both languages of a translation, by their codes."""


class SequenceToSequence(TabularTask):
    """Targets from sources, with an encoder-decoder; a sequence of tokens is predicted by generating it.

    References are the texts of the data, not their tokens: cutting a target at `max_target_length` flatters nobody.
    Validation features have a "row", the number of their reference.
    """

    section: SequenceToSequenceConfig
    roles: ClassVar[tuple[str, ...]] = ("source", "target")
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    figures: ClassVar[tuple[str, ...]]

    def __init__(self, section: SequenceToSequenceConfig, model: str) -> None:
        super().__init__(section, model)
        judged = {"": self._validation, **self._further}
        self._rows = {}
        self.references: list[str] = []
        for name, table in judged.items():
            start, found = len(self.references), table.rows["target"][:] if table else []
            self._rows[name] = range(start, start + len(found))
            self.references += found

    @abstractmethod
    def pair(self, table: Table) -> Table:
        """The table with the columns source and target, both strings, alone; DataError for a fault in the data."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """What judges generated texts; PluginError where the library is missing."""

    def prepare(self, tables: Tables) -> Tables:
        self.metric = choose_metric(self.section.metric, self.figures)
        self.score = self.scorer()
        require_head_class(self.auto_class, self.config, self.source, "that makes a text of a text")
        self.processor = load_tokenizer(self.source)
        if self.processor.pad_token_id is None:
            raise ModelError(f"{self.source}: its tokenizer has no padding token; texts could not be put in a batch")
        self.set_languages()
        self.decoder_start = _decoder_start(self.config, self.source)
        self.read = read_inputs(self.auto_class, self.config, self.processor)
        self.inputs = (*self.read, "decoder_input_ids")
        limits = (self.section.max_length, self.section.max_target_length)
        self.max_length, self.max_target_length = (length_limit(n, self.processor, self.config) for n in limits)
        return tables.map(self.pair)

    def set_languages(self) -> None:
        """Tell the tokenizer of a multilingual model which languages it reads; RecipeError where it cannot know."""

    def features(self, table: Table) -> Dataset:
        options = {
            "tokenizer": self.processor,
            "prefix": self.prefix(),
            "max_length": self.max_length,
            "max_target_length": self.max_target_length,
            "languages": [getattr(self.processor, name, None) for name in ("src_lang", "tgt_lang")],
        }
        return tokenized(table, _tokenize, **options)

    def judged(self, name: str, features: Dataset) -> Dataset:
        return features.add_column("row", list(self._rows[name]))

    def prefix(self) -> str:
        """What stands before each source: what was asked for, or what the model's configuration says (T5)."""
        if self.section.source_prefix is not None:
            return self.section.source_prefix
        known = getattr(self.config, "task_specific_params", None) or {}
        return str((known.get(self.pretraining_task()) or {}).get("prefix", ""))

    @abstractmethod
    def pretraining_task(self) -> str:
        """What a configuration calls this task, such as translation_en_to_de."""

    def load_model(self, path: str) -> PreTrainedModel:
        model = super().load_model(path)
        for name, value in first_tokens(self.processor, self.config).items():
            setattr(model.generation_config, name, value)
        return model

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = dict(DataCollatorForSeq2Seq(self.processor)(features))
        padding = self.processor.pad_token_id
        return {**batch, "decoder_input_ids": shifted_right(batch["labels"], self.decoder_start, padding)}

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Generated tokens [examples, 1 + max_target_length], padded with -100, and the numbers of the references."""
        wanted = {"num_beams": self.section.num_beams, "length_penalty": self.section.length_penalty}
        options = {name: value for name, value in wanted.items() if value is not None}
        inputs = {name: batch[name] for name in self.read if name in batch}
        tokens = model.generate(**inputs, max_new_tokens=self.max_target_length, do_sample=False, **options)
        return F.pad(tokens, (0, 1 + self.max_target_length - tokens.shape[1]), value=IGNORED), batch["row"]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of generated tokens [examples, tokens] by the texts of their references."""
        tokens = np.asarray(prediction.predictions)
        tokens = np.where(tokens == IGNORED, self.processor.pad_token_id, tokens)
        texts = [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]
        return self.score(texts, [self.references[row] for row in np.ravel(prediction.label_ids)])

    def counted(self, batch: Mapping[str, Any]) -> Tensor:
        counted: Tensor = batch["labels"] != IGNORED
        return counted


class Summarization(SequenceToSequence):
    """Summaries, judged by ROUGE."""

    section: SummarizationConfig
    figures: ClassVar[tuple[str, ...]] = ("rougeL", "rouge1", "rouge2", "rougeLsum")

    def scorer(self) -> Scorer:
        return rouge()

    def pretraining_task(self) -> str:
        return "summarization"

    def pair(self, table: Table) -> Table:
        columns = self.section.columns
        source = text_column(table, "source", columns, SOURCES)
        return _pair(table, source, text_column(table, "target", columns, SUMMARIES))


class Translation(SequenceToSequence):
    """Translations, judged by BLEU and chrF.

    The texts are two columns, named by their roles or by the languages, or one column "translation" with both.
    """

    section: TranslationConfig
    figures: ClassVar[tuple[str, ...]] = TRANSLATION

    def scorer(self) -> Scorer:
        target = self.section.target_lang
        return translation_scores(target and family(target))

    def pretraining_task(self) -> str:
        source, target = self.section.source_lang, self.section.target_lang
        return f"translation_{family(source or '')}_to_{family(target or '')}"

    def set_languages(self) -> None:
        set_languages(self.processor, self.section.source_lang, self.section.target_lang)

    def pair(self, table: Table) -> Table:
        if _PAIRS in table.columns:
            table = replace(table, rows=table.rows.flatten())
        languages = (self.section.source_lang, self.section.target_lang)
        return _pair(table, *(self._column(table, *pair) for pair in zip(self.roles, languages, strict=True)))

    def _column(self, table: Table, role: str, language: str | None) -> str:
        if role in self.section.columns:
            return self.section.columns[role]
        if language is None:
            raise DataError(
                f"{table.source}: which column is the {role} is unclear; found {', '.join(table.columns)}; "
                f"name it with --column {role}=NAME, or its language with --set task.{role}_lang=CODE"
            )
        names = [f"{prefix}{code}" for prefix in ("", f"{_PAIRS}.") for code in (language, family(language))]
        return next((name for name in names if name in table.columns), language)


def shifted_right(labels: Tensor, start: int | None, padding: int) -> Tensor:
    """What a decoder reads to predict `labels` [batch, tokens]: `start` and all labels but the last.

    Where `start` is None it is the last label that counts, the language of the target (mBART, arXiv:2001.08210).
    """
    tokens = labels.masked_fill(labels == IGNORED, padding)
    first = labels.new_full((len(labels), 1), padding if start is None else start)
    if start is None:
        last = (tokens != padding).sum(dim=1, keepdim=True) - 1
        first = tokens.gather(1, last.clamp(min=0))
    return torch.cat([first, tokens[:, :-1]], dim=1)


def _decoder_start(config: PreTrainedConfig, model: str) -> int | None:
    """The token that a decoder starts with, None where that is the language of its text; ModelError for none."""
    if config.model_type in STARTS_WITH_LANGUAGE:
        return None
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        with suppress(OSError):
            start = GenerationConfig.from_pretrained(model).decoder_start_token_id
    if start is None:
        raise ModelError(f"{model}: its configuration names no decoder_start_token_id; a decoder must start somewhere")
    return int(start)


def _tokenize(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    tokenizer = options["tokenizer"]
    sources = [options["prefix"] + text for text in batch["source"]]
    encoding = tokenizer(sources, truncation=True, max_length=options["max_length"])
    targets = tokenizer(text_target=batch["target"], truncation=True, max_length=options["max_target_length"])
    return {**encoding, "labels": targets["input_ids"]}


def _pair(table: Table, source: str, target: str) -> Table:
    """The columns of two roles alone, by the names of the roles."""
    if source == target:
        raise DataError(f"{table.source}: column {source!r} is source and target; name another with --column")
    for role, column in (("source", source), ("target", target)):
        require_text(table, role, column)
    rows = table.rows.select_columns([source, target])
    others = {old: new for old, new in ((source, "source"), (target, "target")) if old != new}
    return _filled(replace(table, rows=rows.rename_columns(others) if others else rows))


def _filled(table: Table) -> Table:
    """The rows with both texts; a warning says how many have not. DataError where none has."""
    texts = [pc.utf8_trim_whitespace(table.arrow(role)) for role in ("source", "target")]
    filled = np.logical_and(*(pc.not_equal(text, "").to_numpy() for text in texts))
    if filled.all():
        return table
    first = f"row {int(np.argmin(filled)) + 1} is the first"
    if not filled.any():
        raise DataError(f"{table.source}: every row has an empty source or target ({first}); fill them")
    count = np.count_nonzero(~filled)
    logger.warning("%s: rows with an empty source or target are left out, %d (%s)", table.source, count, first)
    return replace(table, rows=table.rows.select(np.flatnonzero(filled)))
