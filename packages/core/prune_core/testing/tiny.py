"""Tiny random models of every family that core describes: built from a configuration, no hub, no file.

Weights and biases are larger than a fresh model's, so that a head that is wrongly cut or a bias that is forgotten
moves the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
    """What a family calls its sizes, and which head it gets."""

    sizes: dict[str, Any]
    build: Callable[[PretrainedConfig], PreTrainedModel]


_ENCODER = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": NEURONS,
}
_TEXT = {**_ENCODER, "vocab_size": TOKENS, "max_position_embeddings": 64}
_IMAGE = {**_ENCODER, "image_size": 8, "patch_size": 4, "num_channels": 1}
_DISTILBERT = {
    "dim": HIDDEN,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "hidden_dim": NEURONS,
    "vocab_size": TOKENS,
    "max_position_embeddings": 64,
}


def _text(sizes: dict[str, Any]) -> _Family:
    return _Family(sizes, AutoModelForSequenceClassification.from_config)


def _image(sizes: dict[str, Any]) -> _Family:
    return _Family(sizes, AutoModelForImageClassification.from_config)


_FAMILIES: dict[str, _Family] = {
    "bert": _text(_TEXT),
    "roberta": _text({**_TEXT, "max_position_embeddings": 66}),
    "distilbert": _text(_DISTILBERT),
    "electra": _text({**_TEXT, "embedding_size": HIDDEN // 2}),
    "vit": _image(_IMAGE),
    "deit": _image({**_IMAGE, "architectures": ["DeiTForImageClassification"]}),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Model types that `tiny_model` can build."""


def tiny_model(family: str = "bert", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A classifier of `LABELS` labels with two layers of four heads and 64 neurons, in evaluation mode.

    `changes` are fields of its configuration, such as `num_hidden_layers=3`. Dropout is off unless asked for, so that
    two forwards agree.
    """
    chosen = _FAMILIES[family]
    fields = {**dict.fromkeys(_DROPOUTS, 0.0), "num_labels": LABELS, **chosen.sizes, **changes}
    config = AutoConfig.for_model(family, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = chosen.build(config)
        _shake(model)
    return model.eval()


def tiny_inputs(model: PreTrainedModel, *, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch that `model` takes, labels included; texts of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    labels = torch.randint(0, config.num_labels, (batch,), generator=generator)
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
