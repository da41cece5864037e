"""Tiny random models of every family that core describes: built from a configuration, no hub, no file.

Weights and biases are larger than a fresh model's, so that a head that is wrongly cut or a bias that is forgotten
moves the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

HIDDEN, HEADS, LAYERS, NEURONS, LABELS, TOKENS = 32, 4, 2, 64, 3, 64

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


@dataclass(frozen=True)
class _Family:
    """What a family calls hidden size, heads, layers and neurons; its other sizes; and the head it gets."""

    build: Callable[[PretrainedConfig], PreTrainedModel]
    others: dict[str, Any]
    names: tuple[str, str, str, str] = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")


def _text(**others: Any) -> _Family:
    sizes = {"vocab_size": TOKENS, "max_position_embeddings": TOKENS}
    return _Family(AutoModelForSequenceClassification.from_config, sizes | others)


def _image(**others: Any) -> _Family:
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    return _Family(AutoModelForImageClassification.from_config, sizes | others)


_FAMILIES: dict[str, _Family] = {
    "bert": _text(),
    "roberta": _text(max_position_embeddings=TOKENS + 2),
    "distilbert": replace(_text(), names=("dim", "n_heads", "n_layers", "hidden_dim")),
    "electra": _text(embedding_size=HIDDEN // 2),
    "vit": _image(),
    "deit": _image(architectures=["DeiTForImageClassification"]),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Model types that `tiny_model` can build."""


def tiny_model(
    family: str = "bert", *, seed: int = 0, heads: int = HEADS, layers: int = LAYERS, **changes: Any
) -> PreTrainedModel:
    """A classifier of `LABELS` labels and hidden size `HIDDEN`, with `NEURONS` neurons a layer, in evaluation mode.

    `changes` are further fields of its configuration. Dropout is off unless asked for, so that two forwards agree.
    """
    chosen = _FAMILIES[family]
    sizes = dict(zip(chosen.names, (HIDDEN, heads, layers, NEURONS), strict=True))
    fields = {**dict.fromkeys(_DROPOUTS, 0.0), "num_labels": LABELS, **sizes, **chosen.others, **changes}
    config = AutoConfig.for_model(family, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = chosen.build(config)
        _shake(model)
    model.eval()
    return model


def tiny_inputs(model: PreTrainedModel, *, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch that `model` takes, labels included; texts of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    labels = torch.randint(0, config.num_labels or LABELS, (batch,), generator=generator)
    if hasattr(config, "image_size"):
        size = (batch, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(size, generator=generator), "labels": labels}
    length = 12
    tokens = torch.randint(3, config.vocab_size, (batch, length), generator=generator)
    ends = torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
    attended = (torch.arange(length) < ends).long()
    padding = config.pad_token_id or 0
    return {"input_ids": tokens.where(attended.bool(), padding), "attention_mask": attended, "labels": labels}


@torch.no_grad()
def _shake(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
