"""Random batches for models of every kind: texts, images, sounds."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.errors import ModelError, RecipeError, named
from prune_core.folders.pretrained import usable_length

_FRAMES_A_POSITION = 2
"""Whisper's second convolution halves the frames."""


def dummy_inputs(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, Tensor]:
    """A random batch on the CPU, the same at every call, of the kind that the model takes; one that takes texts and
    images gets both: an image for each text, and where texts hold images (Gemma 3, LLaVA) the tokens that stand for it,
    in front of `length` others.

    Texts: ids and a mask of ones [batch_size, length], of one choice each, [batch_size, 1, length], for multiple
    choice; as many ids again for a decoder beside an encoder. Images: float pixels [batch_size, channels, height,
    width] of the configured size, whatever `length`. Sounds: as many samples [batch_size, samples], and a mask of ones,
    as the convolutions make `length` frames of (wav2vec2); or spectra [batch_size, bins, frames] of the configured
    size, and ids [batch_size, length] for the decoder (Whisper).

    RecipeError when `length` exceeds the model's positions, or for a batch of texts that a classifier without padding
    would not take; ModelError when the model takes none of these.
    """
    makers = {
        "input_ids": _text_inputs,
        "pixel_values": _image_inputs,
        "input_values": _sound_inputs,
        "input_features": _spectrum_inputs,
    }
    kind = model.main_input_name
    if kind not in makers:
        raise ModelError(
            f"{type(model).__name__} takes {kind}: no input for measuring it is known, only {', '.join(makers)}"
        )
    generator = torch.Generator().manual_seed(0)
    inputs = makers[kind](model, batch_size, length, generator)
    if "decoder_input_ids" in inspect.signature(model.forward).parameters and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = _decoder_ids(model, batch_size, length, generator)
    return inputs


def fitted(model: PreTrainedModel, length: int) -> int:
    """`length`, or as many tokens as the model takes where that is less."""
    return min(length, usable_length(model.config.get_text_config()) or length)


def ragged_inputs(model: PreTrainedModel, lengths: Sequence[int], left: bool) -> dict[str, Tensor]:
    """A random batch of texts of these lengths, padded to the longest, on the `left` as for decoding or on the right.

    RecipeError for a model that takes no texts.
    """
    if model.main_input_name != "input_ids":
        raise RecipeError(
            f"lengths_of: {type(model).__name__} takes {model.main_input_name}, which has no such lengths"
        )
    longest = max(lengths)
    batch = dummy_inputs(model, len(lengths), longest)
    places = torch.arange(longest)
    ends = torch.tensor(lengths).view(-1, *(1,) * (batch["attention_mask"].dim() - 1))
    batch["attention_mask"] *= (places >= longest - ends) if left else (places < ends)
    return batch


def unpadded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without masks of ones: eager transformers looks at them and leaves them out, what is traced would keep them."""
    return {name: one for name, one in batch.items() if not (name.endswith("attention_mask") and bool(one.all()))}


def check_room(model: PreTrainedModel, length: int, new_tokens: int) -> None:
    """RecipeError where `new_tokens` behind a text of `length` are more than the positions of a model that generates;
    beside an encoder they stand behind the one token that a decoder starts with.
    """
    if model.config.is_encoder_decoder:
        _check_length(model, 1, _decoder_length(model), new_tokens)
    else:
        _check_length(model, length, usable_length(model.config.get_text_config()), new_tokens)


def placed(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """The batch where the model is, floats in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


def _text_inputs(model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    config = model.config.get_text_config()
    _check_length(model, length, usable_length(config))
    if (
        batch_size > 1
        and type(model).__name__.endswith("ForSequenceClassification")
        and getattr(config, "pad_token_id", 0) is None
    ):
        raise RecipeError(
            f"{batch_size} texts in a batch were asked for, {type(model).__name__} takes one without a pad_token_id: "
            "write that of its tokenizer into its config.json; where sizes of batches can be given, 1 will do"
        )
    ids = torch.randint(_vocabulary(model, config), (batch_size, length), generator=generator)
    if type(model).__name__.endswith("ForMultipleChoice"):
        ids = ids.unsqueeze(1)  # how many choices there are is up to the data; a text costs the same in any number
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids.roll(1, dims=1)
        _end(ids, getattr(model.config, "eos_token_id", None))
    if "pixel_values" in inspect.signature(model.forward).parameters and _image_config(model) is not None:
        inputs |= _image_inputs(model, batch_size, length, generator)
    if (token := getattr(model.config, "image_token_id", None)) is not None:
        count = _tokens_an_image(model, placed({"pixel_values": inputs["pixel_values"][:1]}, model)["pixel_values"])
        ids[ids == token] = 0
        ids = torch.cat([ids.new_full((batch_size, count), token), ids], dim=1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": (ids == token).long()}
    return inputs


def _vocabulary(model: PreTrainedModel, config: Any) -> int:
    """How many tokens there are; ModelError for a model that reads characters or else by no such number."""
    if not hasattr(config, "vocab_size"):
        raise ModelError(
            f"{type(model).__name__} takes input_ids of a range that is not known: its configuration has no vocab_size"
        )
    return int(config.vocab_size)


def _tokens_an_image(model: PreTrainedModel, image: Tensor) -> int:
    """Tokens of a text that stand for an image; ModelError for a model whose images need more than pixels."""
    try:
        with torch.no_grad():
            shown: Any = model
            return len(shown.get_image_features(image, return_dict=True).pooler_output[0])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{type(model).__name__} takes images in a way that is not known: {named(error)}") from error


def _check_length(model: PreTrainedModel, length: int, longest: int | None, new_tokens: int = 0) -> None:
    if longest is not None and length + new_tokens > longest:
        new, whole = (f" and {new_tokens} new ones", " in all") if new_tokens else ("", "")
        raise RecipeError(
            f"{length} tokens{new} were asked for, {type(model).__name__} takes {longest} at most: "
            f"give {longest} or less{whole}"
        )


def _end(ids: Tensor, token: int | None) -> None:
    """End every text by this token, and let it be nowhere else: BART classifies what it finds at the last one."""
    if token is not None:
        ids[ids == token] = max(token - 1, 0)
        ids[:, -1] = token


def _image_inputs(
    model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    config = _image_config(model)
    if config is None:
        raise ModelError(
            f"{type(model).__name__} takes images of a size that is not known: no image_size is configured"
        )
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.randn(batch_size, config.num_channels, height, width, generator=generator)}


def _image_config(model: PreTrainedModel) -> Any:
    """The part of the configuration that says how large images are; None where none does."""
    parts = [getattr(model.config, name, None) for name in ("vision_config", "image_config", "encoder")]
    return next((part for part in (*parts, model.config) if getattr(part, "image_size", None) is not None), None)


def _sound_inputs(
    model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    samples = length
    for kernel, stride in reversed(list(zip(*_fields(model, "conv_kernel", "conv_stride"), strict=True))):
        samples = (samples - 1) * stride + kernel
    sound = torch.randn(batch_size, samples, generator=generator)
    return {"input_values": sound, "attention_mask": torch.ones_like(sound, dtype=torch.long)}


def _spectrum_inputs(
    model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    bins, positions = _fields(model, "num_mel_bins", "max_source_positions")
    return {"input_features": torch.randn(batch_size, bins, _FRAMES_A_POSITION * positions, generator=generator)}


def _decoder_ids(model: PreTrainedModel, batch_size: int, length: int, generator: torch.Generator) -> Tensor:
    """What a decoder reads behind images or sounds."""
    _check_length(model, length, _decoder_length(model))
    return torch.randint(_vocabulary(model, _decoder_config(model)), (batch_size, length), generator=generator)


def _decoder_length(model: PreTrainedModel) -> int | None:
    config = _decoder_config(model)
    return getattr(config, "max_target_positions", None) or usable_length(config)


def _decoder_config(model: PreTrainedModel) -> Any:
    return getattr(model.config, "decoder", model.config)


def _fields(model: PreTrainedModel, *names: str) -> list[Any]:
    """These fields of the configuration; ModelError for a model whose sounds have another shape, and so lacks some."""
    if missing := [name for name in names if not hasattr(model.config, name)]:
        raise ModelError(
            f"{type(model).__name__} takes {model.main_input_name} of a shape that is not known: its configuration has "
            f"no {' and no '.join(missing)}, as those of wav2vec2 and whisper have"
        )
    return [getattr(model.config, name) for name in names]
