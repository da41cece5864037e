"""Tiny random models of every family that core describes: built from a configuration, no hub, no file.

Weights and biases are larger than a fresh model's, so that a head that is wrongly cut or a bias that is forgotten
moves the logits.
"""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

HIDDEN, HEADS, LAYERS, NEURONS, LABELS, TOKENS = 32, 4, 2, 64, 3, 64

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "dropout_rate",
)


@dataclass(frozen=True)
class _Family:
    """The head that a family gets by default, what it calls hidden size, heads, layers and neurons, its other sizes.

    `model_type` where a family is a variant of another.
    """

    head: str = "SequenceClassification"
    names: tuple[str, str, str, str] = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    others: dict[str, Any] = field(default_factory=dict)
    model_type: str | None = None

    def having(self, **others: Any) -> "_Family":
        return replace(self, others=self.others | others)


_TEXT = _Family(others={"vocab_size": TOKENS, "max_position_embeddings": TOKENS})
_IMAGE = _Family("ImageClassification", others={"image_size": 8, "patch_size": 4, "num_channels": 1})
_TRANSLATOR = replace(
    _TEXT,
    head="Seq2SeqLM",
    names=(
        "d_model",
        "encoder_attention_heads decoder_attention_heads",
        "encoder_layers decoder_layers",
        "encoder_ffn_dim decoder_ffn_dim",
    ),
)
_T5 = replace(_TRANSLATOR, names=("d_model", "num_heads", "num_layers num_decoder_layers", "d_ff")).having(
    d_kv=HIDDEN // HEADS, decoder_start_token_id=0
)
_DECODER = replace(_TEXT, head="CausalLM")
_GROUPED = _DECODER.having(num_key_value_heads=2, head_dim=HIDDEN // HEADS, pad_token_id=0)

_FAMILIES: dict[str, _Family] = {
    "bert": _TEXT,
    "roberta": _TEXT.having(max_position_embeddings=TOKENS + 2),
    "distilbert": replace(_TEXT, names=("dim", "n_heads", "n_layers", "hidden_dim")),
    "electra": _TEXT.having(embedding_size=HIDDEN // 2),
    "vit": _IMAGE,
    "deit": _IMAGE.having(architectures=["DeiTForImageClassification"]),
    "bart": _TRANSLATOR,
    "mbart": _TRANSLATOR,
    "pegasus": _TRANSLATOR,
    "marian": _TRANSLATOR.having(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0),
    "t5": _T5,
    "flan-t5": replace(_T5, model_type="t5").having(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "opt": replace(_DECODER, names=("hidden_size", "num_attention_heads", "num_hidden_layers", "ffn_dim")).having(
        word_embed_proj_dim=HIDDEN
    ),
    "llama": _GROUPED,
    "mistral": _GROUPED.having(sliding_window=8),
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gemma2": _GROUPED.having(sliding_window=8),
    "gemma3_text": _GROUPED.having(sliding_window=8),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Families that `tiny_model` can build, by model type."""

GENERATING: tuple[str, ...] = tuple(name for name in FAMILIES if _FAMILIES[name].head in ("Seq2SeqLM", "CausalLM"))
"""Those that it builds as models that generate text."""


def auto_class(family: str, head: str | None = None) -> Any:
    """transformers' Auto class for this head (see `tiny_model`) of a family."""
    head = _FAMILIES[family].head if head is None else head
    return getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")


def tiny_model(
    family: str = "bert",
    *,
    seed: int = 0,
    heads: int = HEADS,
    layers: int = LAYERS,
    head: str | None = None,
    **changes: Any,
) -> PreTrainedModel:
    """A model of hidden size `HIDDEN` with `NEURONS` neurons a layer (and half as many key/value heads as heads where
    the family groups its queries), in evaluation mode.

    `head` is what follows AutoModelFor, "" for the bare model: by default a classifier of `LABELS` labels, a language
    model for decoders. `changes` are further fields of its configuration. Dropout is off unless asked for.
    """
    chosen = _FAMILIES[family]
    sizes = zip(chosen.names, (HIDDEN, heads, layers, NEURONS), strict=True)
    named = {name: size for names, size in sizes for name in names.split()}
    fields = {**dict.fromkeys(_DROPOUTS, 0.0), "num_labels": LABELS, **named, **chosen.others, **changes}
    config = AutoConfig.for_model(chosen.model_type or family, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = auto_class(family, head).from_config(config)
        _shake(model)
    model.eval()
    return model


def tiny_inputs(model: PreTrainedModel, *, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch that `model` takes, labels included where it has a loss; texts of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, model.config.num_labels or LABELS, (batch,), generator=generator)
    if model.main_input_name == "pixel_values":
        config = model.config
        size = (batch, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(size, generator=generator), "labels": classes}
    inputs = _text(model, batch, generator)
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return inputs | {"labels": classes}
    if name.endswith("ForQuestionAnswering"):
        return inputs | {"start_positions": classes, "end_positions": classes + 2}
    return inputs | _further(model, inputs, generator)


def _text(model: PreTrainedModel, batch: int, generator: torch.Generator, length: int = 12) -> dict[str, Tensor]:
    """Ids and their mask [batch, length]; where the model has a token for the end of a text, each text ends with it."""
    config = model.config
    tokens = torch.randint(3, config.vocab_size, (batch, length), generator=generator)
    ends = torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
    if isinstance(config.eos_token_id, int):
        tokens.scatter_(1, ends - 1, config.eos_token_id)
    attended = (torch.arange(length) < ends).long()
    return {"input_ids": tokens.where(attended.bool(), config.pad_token_id or 0), "attention_mask": attended}


def _further(model: PreTrainedModel, inputs: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Ids of the decoder where there is one beside an encoder, labels of every token where there is a loss."""
    takes = inspect.signature(model.forward).parameters
    tokens, found = inputs["input_ids"], {}
    if "decoder_input_ids" in takes:
        tokens = torch.randint(3, model.config.vocab_size, (len(tokens), 7), generator=generator)
        found["decoder_input_ids"] = tokens.roll(1, dims=1)
    else:
        tokens = tokens.where(inputs["attention_mask"].bool(), -100)
    if type(model).__name__.endswith("ForTokenClassification"):
        tokens = tokens % LABELS
    return found | ({"labels": tokens} if "labels" in takes else {})


@torch.no_grad()
def _shake(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:  # sinusoidal positions are none to train: they are computed again when loaded
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
