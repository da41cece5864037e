"""Tiny random models of every family that core describes: built from a configuration, no hub, no file.

Weights and biases are larger than a fresh model's, so that a head that is wrongly cut or a bias that is forgotten
moves the logits.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

HIDDEN, HEADS, LAYERS, NEURONS, LABELS, TOKENS = 32, 4, 2, 64, 3, 64

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "dropout_rate",
    "hidden_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "layerdrop",
    "resid_pdrop",
    "embd_pdrop",
    "classifier_dropout_prob",
    "drop_path_rate",
    "mask_time_prob",
    "classifier_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "attn_pdrop",
)

_Sizes = Callable[[int, int], dict[str, Any]]
"""Fields of a configuration that say how many heads a layer and how many layers there are, and the fixed sizes."""


def _named(hidden: str, heads: str, layers: str, neurons: str) -> _Sizes:
    """By what a family calls them; several names where it has several stacks."""

    def fields(head_count: int, layer_count: int) -> dict[str, Any]:
        sizes = zip((hidden, heads, layers, neurons), (HIDDEN, head_count, layer_count, NEURONS), strict=True)
        return {name: size for names, size in sizes for name in names.split()}

    return fields


_USUAL = _named("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")


def _two_stages(heads: int, layers: int) -> dict[str, Any]:
    """The second stage is twice as wide and has twice the heads."""
    depths = [layers - layers // 2, layers // 2]
    return {"embed_dim": HIDDEN, "num_heads": [heads, 2 * heads], "depths": depths, "mlp_ratio": NEURONS / HIDDEN}


def _two_groups(heads: int, layers: int) -> dict[str, Any]:
    """Groups of two layers that the model runs through in turn, each as often as it takes."""
    return _USUAL(heads, layers) | {"num_hidden_groups": min(2, layers), "inner_group_num": 2}


def _two_towers(heads: int, layers: int) -> dict[str, Any]:
    """A configuration for texts and one for images."""
    sizes = _USUAL(heads, layers) | dict.fromkeys(_DROPOUTS, 0.0)
    return {"text_config": sizes | _TEXT.others | _MARKS, "vision_config": sizes | _IMAGE.others}


@dataclass(frozen=True)
class _Family:
    """The head that a family gets by default, its sizes and the other fields of its configuration.

    `model_type` where a family is a variant of another.
    """

    head: str = "SequenceClassification"
    sizes: _Sizes = _USUAL
    others: dict[str, Any] = field(default_factory=dict)
    model_type: str | None = None

    def having(self, **others: Any) -> "_Family":
        return replace(self, others=self.others | others)


_TEXT = _Family(others={"vocab_size": TOKENS, "max_position_embeddings": TOKENS})
_MARKS = {"bos_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
_IMAGE = _Family("ImageClassification", others={"image_size": 8, "patch_size": 4, "num_channels": 1})
_TRANSLATOR = replace(
    _TEXT,
    head="Seq2SeqLM",
    sizes=_named(
        "d_model",
        "encoder_attention_heads decoder_attention_heads",
        "encoder_layers decoder_layers",
        "encoder_ffn_dim decoder_ffn_dim",
    ),
)
_T5 = replace(_TRANSLATOR, sizes=_named("d_model", "num_heads", "num_layers num_decoder_layers", "d_ff")).having(
    d_kv=HIDDEN // HEADS, decoder_start_token_id=0
)
_DECODER = replace(_TEXT, head="CausalLM")
_SOUND = _Family(
    "AudioClassification",
    others={
        "vocab_size": TOKENS,
        "tdnn_dim": [HIDDEN],
        "tdnn_kernel": [3],
        "tdnn_dilation": [1],
        "xvector_output_dim": HIDDEN,
        "conv_dim": [HIDDEN // 2],
        "conv_kernel": [6],
        "conv_stride": [4],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": HIDDEN,
    },
)
_GROUPED = _DECODER.having(num_key_value_heads=2, head_dim=HIDDEN // HEADS, pad_token_id=0)

_ONE_TOKEN_AN_IMAGE = {"mm_tokens_per_image": 1, "image_token_id": TOKENS - 1}


def _reader_of_images(heads: int, layers: int) -> dict[str, Any]:
    """A configuration for texts, in which a token stands for an image, and one for images."""
    sizes = _USUAL(heads, layers) | dict.fromkeys(_DROPOUTS, 0.0)
    return {
        "text_config": sizes | _GROUPED.others | _MARKS | {"sliding_window": 8},
        "vision_config": sizes | _IMAGE.others | {"vision_use_head": False},  # as those that were published
    }


_FAMILIES: dict[str, _Family] = {
    "bert": _TEXT,
    "roberta": _TEXT.having(max_position_embeddings=TOKENS + 2),
    "xlm-roberta": _TEXT.having(max_position_embeddings=TOKENS + 2),
    "camembert": _TEXT.having(max_position_embeddings=TOKENS + 2),
    "distilbert": replace(_TEXT, sizes=_named("dim", "n_heads", "n_layers", "hidden_dim")),
    "electra": _TEXT.having(embedding_size=HIDDEN // 2),
    "albert": replace(_TEXT, sizes=_two_groups).having(embedding_size=HIDDEN // 2),
    "deberta-v2": _TEXT.having(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4),
    "deberta-v3": replace(_TEXT, model_type="deberta-v2").having(
        relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm"
    ),
    "deberta": _TEXT.having(relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "modernbert": _TEXT.having(**_MARKS, local_attention=8, global_attn_every_n_layers=2),
    "mpnet": _TEXT,
    "vit": _IMAGE,
    "deit": _IMAGE.having(architectures=["DeiTForImageClassification"]),
    "dinov2": _IMAGE.having(mlp_ratio=NEURONS // HIDDEN),
    "dinov2-gated": replace(_IMAGE, model_type="dinov2").having(mlp_ratio=3, use_swiglu_ffn=True),
    "swin": replace(_IMAGE, sizes=_two_stages).having(patch_size=1, window_size=2),
    "clip": _Family("", _two_towers, {"projection_dim": HIDDEN // 2}),
    "clip_text_model": replace(_TEXT, head="").having(**_MARKS),
    "clip_vision_model": replace(_IMAGE, head=""),
    "wav2vec2": _SOUND,
    "wav2vec2-stable": replace(_SOUND, model_type="wav2vec2").having(
        do_stable_layer_norm=True, feat_extract_norm="layer"
    ),
    "hubert": _SOUND,
    "whisper": replace(_TRANSLATOR, head="SpeechSeq2Seq").having(
        **_MARKS,
        decoder_start_token_id=1,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=TOKENS,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    "bart": _TRANSLATOR,
    "mbart": _TRANSLATOR,
    "pegasus": _TRANSLATOR,
    "marian": _TRANSLATOR.having(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0),
    "t5": _T5,
    "flan-t5": replace(_T5, model_type="t5").having(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "opt": replace(_DECODER, sizes=_named("hidden_size", "num_attention_heads", "num_hidden_layers", "ffn_dim")).having(
        word_embed_proj_dim=HIDDEN
    ),
    "gpt2": replace(_DECODER, sizes=_named("n_embd", "n_head", "n_layer", "n_inner")).having(**_MARKS),
    "gpt_neox": _DECODER.having(pad_token_id=0),
    "phi3": _GROUPED.having(eos_token_id=2, bos_token_id=1, sliding_window=8),
    "phi": _DECODER.having(num_key_value_heads=2, qk_layernorm=True, pad_token_id=0),
    "llama": _GROUPED,
    "mistral": _GROUPED.having(sliding_window=8),
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gemma2": _GROUPED.having(sliding_window=8),
    "gemma3_text": _GROUPED.having(sliding_window=8),
    "gemma3": _Family("ImageTextToText", _reader_of_images, _ONE_TOKEN_AN_IMAGE),
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Families that `tiny_model` can build, by model type."""

GENERATING: tuple[str, ...] = tuple(
    name for name in FAMILIES if _FAMILIES[name].head in ("Seq2SeqLM", "SpeechSeq2Seq", "CausalLM", "ImageTextToText")
)
"""Those that it builds as models that generate text."""


def auto_class(family: str, head: str | None = None) -> Any:
    """transformers' Auto class for this head (see `tiny_model`) of a family."""
    head = _FAMILIES[family].head if head is None else head
    return getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")


def tiny_config(family: str = "bert", *, heads: int = HEADS, layers: int = LAYERS, **changes: Any) -> PreTrainedConfig:
    """The configuration of `tiny_model`; `changes` are further fields of it."""
    chosen = _FAMILIES[family]
    fields = dict.fromkeys(_DROPOUTS, 0.0) | {"num_labels": LABELS} | chosen.sizes(heads, layers)
    config: PreTrainedConfig = AutoConfig.for_model(chosen.model_type or family, **fields | chosen.others | changes)
    return config


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
    config = tiny_config(family, heads=heads, layers=layers, **changes)
    return random_model(partial(auto_class(family, head).from_config, config), seed)


def random_model(make: Callable[[], PreTrainedModel], seed: int = 0) -> PreTrainedModel:
    """What `make` makes, its weights and biases random and large, in evaluation mode; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        _shake(model)
    model.eval()
    return model


def tiny_inputs(model: PreTrainedModel, *, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch that `model` takes, with labels where it has a loss; texts and sounds of different lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, model.config.num_labels or LABELS, (batch,), generator=generator)
    takes = inspect.signature(model.forward).parameters
    inputs: dict[str, Tensor] = {}
    for name, make in _MAKERS.items():
        if name in takes:
            inputs |= make(model, batch, generator)
    if (token := getattr(model.config, "image_token_id", None)) is not None:
        inputs |= _showing(inputs["input_ids"], token)
    name = type(model).__name__
    if name.endswith(("ForSequenceClassification", "ForImageClassification")):
        return inputs | {"labels": classes}
    if name.endswith("ForMultipleChoice"):
        return {name: torch.stack([value, value.roll(1, dims=0)], 1) for name, value in inputs.items()} | {
            "labels": classes % 2
        }
    if name.endswith("ForQuestionAnswering"):
        return inputs | {"start_positions": classes, "end_positions": classes + 2}
    return inputs | _further(model, inputs, generator)


def _text(model: PreTrainedModel, batch: int, generator: torch.Generator, length: int = 12) -> dict[str, Tensor]:
    """Ids and their mask [batch, length]; where the model has a token for the end of a text, each text ends with it."""
    config = model.config.get_text_config()
    tokens = torch.randint(3, config.vocab_size, (batch, length), generator=generator)
    ends = torch.randint(length // 2, length + 1, (batch, 1), generator=generator)
    if isinstance(config.eos_token_id, int):
        tokens.scatter_(1, ends - 1, config.eos_token_id)
    attended = (torch.arange(length) < ends).long()
    return {"input_ids": tokens.where(attended.bool(), config.pad_token_id or 0), "attention_mask": attended}


def _showing(tokens: Tensor, token: int) -> dict[str, Tensor]:
    """Texts that begin with the token of their image, and have it nowhere else."""
    tokens = tokens.where(tokens != token, 3)
    tokens[:, 0] = token
    return {"input_ids": tokens, "token_type_ids": (tokens == token).long()}


def _image(model: PreTrainedModel, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Pixels [batch, channels, height, width]."""
    config = getattr(model.config, "vision_config", model.config)
    size = (batch, config.num_channels, config.image_size, config.image_size)
    return {"pixel_values": torch.randn(size, generator=generator)}


def _sound(model: PreTrainedModel, batch: int, generator: torch.Generator, length: int = 64) -> dict[str, Tensor]:
    """Samples and their mask [batch, length]."""
    samples = torch.randn(batch, length, generator=generator)
    attended = (torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1), generator=generator)).long()
    return {"input_values": samples * attended, "attention_mask": attended}


def _spectrum(model: PreTrainedModel, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Frequencies over time [batch, bins, length]."""
    size = (batch, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    return {"input_features": torch.randn(size, generator=generator)}


_MAKERS: dict[str, Callable[[PreTrainedModel, int, torch.Generator], dict[str, Tensor]]] = {
    "input_ids": _text,
    "pixel_values": _image,
    "input_values": _sound,
    "input_features": _spectrum,
}


def _further(model: PreTrainedModel, inputs: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Ids of the decoder where there is one beside an encoder, labels of every token where there is a loss."""
    takes = inspect.signature(model.forward).parameters
    batch, found = len(next(iter(inputs.values()))), {}
    tokens = torch.randint(3, TOKENS, (batch, 7), generator=generator)
    if "decoder_input_ids" in takes:
        found["decoder_input_ids"] = tokens.roll(1, dims=1)
    elif "input_ids" in inputs:
        tokens = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)
    if type(model).__name__.endswith("ForTokenClassification"):
        tokens = tokens % LABELS
    return found | ({"labels": tokens} if "labels" in takes else {})


@torch.no_grad()
def _shake(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:  # sinusoidal positions are none to train: they are computed again when loaded
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
