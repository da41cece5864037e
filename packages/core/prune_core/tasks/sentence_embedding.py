"""Embeddings of texts: those of the dense model are imitated, and judged on pairs whose similarity was scored."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from transformers import AutoModel, DataCollatorWithPadding

from prune_core.errors import DataError, ModelError
from prune_core.folders.pretrained import load_pretrained, read_config
from prune_core.folders.sentence_transformers import SentenceFolder, sentence_folder
from prune_core.task import choose_metric
from prune_core.tasks.config import SentenceEmbeddingConfig
from prune_core.tasks.data import Table, Tables
from prune_core.tasks.pooling import MEAN, Embedder, prompt_of, read_embedder
from prune_core.tasks.tabular import TabularTask
from prune_core.tasks.targets import Number
from prune_core.tasks.texts import require_text, text_columns
from prune_core.tasks.tokens import length_limit, load_tokenizer, tokenized, with_padding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_SCORES = ("score", "label", "labels", "similarity")
_SIDES = ("", "pair_")


class SentenceEmbedding(TabularTask):
    """One vector for a text, from a plain transformer or a folder of sentence-transformers.

    Every text of every text column is a training example and needs no label: the teacher's embedding is what is learnt.
    Validation needs two columns of texts and one of scores; the cosines of the embeddings are compared with those.
    """

    section: SentenceEmbeddingConfig
    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "score")
    figures: ClassVar[tuple[str, ...]] = ("spearman", "pearson")
    imitation = "vector"

    def prepare(self, tables: Tables) -> Tables:
        self.metric = choose_metric(self.section.metric, self.figures)
        self.needs_teacher = not self.section.supervised
        self._read_model()
        train = tables.train
        scored = [table for table in tables.present() if table is not train or self._needs_scores(tables)]
        self.pair, self.score = _pair(scored[0], self.section.columns)
        for table in scored:
            _require_pairs(table, self.pair, self.score)
        self.texts = self._training_texts(train) if train else []
        self.scale = max(1.0, max(train.rows[self.score])) if train and self.section.supervised else 1.0
        return tables

    def load_model(self, path: str) -> PreTrainedModel:
        return load_pretrained(AutoModel, path)

    def has_trained_head(self, path: str) -> bool:
        """Always: an embedding is what the model itself puts out. ModelError where it is of another kind."""
        if path != self.source:
            self._require_same_embeddings(path)
        return True

    def train(self) -> Dataset:
        table = self._need(self._train, "training", "--train-file")
        if self.section.supervised:
            return self.features(table)
        return tokenized(table, _tokenize_texts, texts=self.texts, **self._options())

    def features(self, table: Table) -> Dataset:
        return tokenized(table, _tokenize_pairs, pair=self.pair, score=self.score, **self._options())

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Texts [texts, tokens]; of pairs one after the other, [2 * pairs, tokens], and their scores [pairs]."""
        sides = _SIDES if "score" in features[0] else _SIDES[:1]
        texts = [{name: one[side + name] for name in self.inputs} for one in features for side in sides]
        batch = dict(DataCollatorWithPadding(self.processor)(texts))
        if len(sides) > 1:
            batch["scores"] = torch.tensor([one["score"] for one in features], dtype=torch.float32)
        return batch

    def forward(self, model: Any, batch: dict[str, Any], **options: Any) -> Any:
        return model(**self.model_inputs(batch), **options)

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor | None:
        """The squared error of the cosines of pairs against their scores, of which the largest means the same."""
        if "scores" not in batch:
            return None
        return F.mse_loss(self._cosines(outputs, batch), batch["scores"] / self.scale)

    def predict(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
        return self._cosines(self.forward(model, batch), batch), batch["scores"]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """pearson and spearman correlation of cosines [pairs] and scores [pairs]."""
        return Number().metrics(prediction)

    def taught(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"embeddings": self.embed(outputs.last_hidden_state, batch["attention_mask"])}

    def _cosines(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        one, other = self.taught(outputs, batch)["embeddings"].unflatten(0, (-1, 2)).unbind(dim=1)
        return F.cosine_similarity(one, other, dim=-1)

    def _needs_scores(self, tables: Tables) -> bool:
        """Whether the training table is one of scored pairs: to learn from, or to hold validation out of."""
        return self.section.supervised or tables.validation is None

    def _training_texts(self, table: Table) -> list[str]:
        columns = self.section.columns
        named = [columns[role] for role in ("text", "text_pair") if role in columns]
        found = [name for name in named if name in table.columns] or named or text_columns(table)
        if not found:
            raise DataError(f"{table.source}: no text column; found {', '.join(table.columns)}")
        for column in found:
            require_text(table, "text", column)
        return found

    def _read_model(self) -> None:
        """Tokenizer, embedder, prompt and length limit of the model."""
        config, folder = _encoder(self.source), sentence_folder(self.source)
        settings = folder.transformer_settings if folder else {}
        self.embed, self.prompt = _embedder(folder), prompt_of(folder.settings) if folder else ""
        if folder is None:
            logger.warning("%s has no modules.json: its embeddings are taken to be %s", self.source, MEAN)
        self.processor = with_padding(load_tokenizer(self.source), self.source)
        self.inputs = tuple(self.processor.model_input_names)
        if settings.get("do_lower_case"):
            _lower_case(self.processor)
        limits = [self.section.max_length, settings.get("max_seq_length"), sys.maxsize]
        self.limit = length_limit(min(limit for limit in limits if limit), self.processor, config)

    def _options(self) -> dict[str, Any]:
        return {"tokenizer": self.processor, "max_length": self.limit, "prompt": self.prompt}

    def _require_same_embeddings(self, path: str) -> None:
        """ModelError where the model at `path` makes embeddings that cannot be compared with the model's, by itself."""
        folder, sizes = sentence_folder(path), [_encoder(one).hidden_size for one in (path, self.source)]
        theirs = self.embed if folder is None else _embedder(folder)
        if sizes[0] != sizes[1] or str(theirs) != str(self.embed):
            raise ModelError(
                f"{path} makes other embeddings than {self.source}: {theirs} of {sizes[0]} features, not {self.embed} "
                f"of {sizes[1]}; a teacher must make embeddings of the same kind"
            )


def _tokenize_texts(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Each text of each column is an example."""
    return _tokens([text for column in options["texts"] for text in batch[column]], options)


def _tokenize_pairs(batch: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Both texts of a row, the names of the second's tokens behind "pair_", and the score."""
    found: dict[str, Any] = {"score": [float(score) for score in batch[options["score"]]]}
    for side, column in zip(_SIDES, options["pair"], strict=True):
        found |= {side + name: values for name, values in _tokens(batch[column], options).items()}
    return found


def _tokens(texts: list[str], options: dict[str, Any]) -> dict[str, Any]:
    prompted = [options["prompt"] + text for text in texts]
    return dict(options["tokenizer"](prompted, truncation=True, max_length=options["max_length"]))


def _encoder(path: str) -> PreTrainedConfig:
    """The configuration of a model; ModelError where it has a decoder as well."""
    config = read_config(path)
    if config.is_encoder_decoder:
        raise ModelError(f"{path} is an encoder with a decoder ({config.model_type}): its embeddings are not supported")
    return config


def _embedder(folder: SentenceFolder | None) -> Embedder:
    return MEAN if folder is None else read_embedder(folder)


def _lower_case(tokenizer: Any) -> None:
    """Texts in lower case before anything else, as sentence-transformers' do_lower_case has it."""
    backend = tokenizer.backend_tokenizer
    backend.normalizer = Normalizers([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])


def _pair(table: Table, columns: dict[str, str]) -> tuple[tuple[str, str], str]:
    """The two columns of texts and the column of scores; DataError where they are not named and not clear."""
    named = [columns[role] for role in ("text", "text_pair") if role in columns]
    texts = named if len(named) == 2 else [name for name in text_columns(table) if name != columns.get("score")]
    scores = [columns["score"]] if "score" in columns else [name for name in _SCORES if name in table.columns]
    if len(texts) != 2 or not scores:
        raise DataError(
            f"{table.source}: embeddings are judged on two columns of texts and one of scores; found "
            f"{', '.join(table.columns)}; name them with --column text=NAME, text_pair=NAME and score=NAME, or give "
            "such a file with --validation-file"
        )
    return (texts[0], texts[1]), scores[0]


def _require_pairs(table: Table, pair: tuple[str, str], score: str) -> None:
    for role, column in zip(("text", "text_pair"), pair, strict=True):
        require_text(table, role, column)
    table.require("score", score)
    table.refuse_nulls("score", score)
    values = table.rows[score][:]
    wrong = [row for row, value in enumerate(values, 1) if not isinstance(value, int | float) or not np.isfinite(value)]
    if wrong:
        raise DataError(
            f"{table.source}: score {values[wrong[0] - 1]!r} in row {wrong[0]} (column {score!r}) is no number; "
            "scores must be numbers"
        )
