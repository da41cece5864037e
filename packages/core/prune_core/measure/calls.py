"""What is timed of a model: a forward pass, the prefill or the decoding of a text."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune_core.bench.grid import Attention, Setting
from prune_core.errors import RecipeError, brief
from prune_core.measure.runtimes import Runs
from prune_core.measure.timing import Prepared

Batch = Mapping[str, Tensor]


def make_call(model: PreTrainedModel, runs: Runs, batches: Sequence[Batch], setting: Setting) -> Prepared:
    """One call of what `setting` names, computed by `runs`; the rounds take the batches, which are where the model is,
    in turn.
    """

    def batch_of(index: int) -> Batch:
        return batches[index % len(batches)]

    if setting.phase == "forward":
        return Prepared(batch_of, lambda batch: runs(**batch), len(batches))
    steps = _Generation(model, runs, setting.new_tokens)
    if setting.phase == "prefill":
        return Prepared(batch_of, steps.prefill, len(batches))
    return Prepared(lambda index: steps.prefill(batch_of(index)), steps.decode, len(batches))


def check_generates(model: PreTrainedModel) -> None:
    """RecipeError for a model that generates no text."""
    if not model.can_generate():
        raise RecipeError(f"new_tokens: {type(model).__name__} generates no text; leave --new-tokens out")


def inferring(call: Prepared) -> Prepared:
    """The same in inference mode."""
    mode = torch.inference_mode
    return Prepared(mode()(call.prepare), mode()(call.run), call.period)


@contextmanager
def attending(models: Sequence[PreTrainedModel], attention: Attention | None) -> Iterator[None]:
    """All models with this implementation of attention for a while; None leaves each its own. RecipeError for a model
    that does not have it.
    """
    before = [model.config._attn_implementation for model in models]
    try:
        for model in models:
            if attention is not None:
                _attend(model, attention)
        yield
    finally:
        for model, own in zip(models, before, strict=True):
            if attention is not None:
                model.set_attn_implementation(own)


def _attend(model: PreTrainedModel, attention: Attention) -> None:
    try:
        model.set_attn_implementation(attention)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"attention: {type(model).__name__} has no {attention}: {brief(error)}") from error
    if (found := model.config._attn_implementation) != attention:
        raise RecipeError(
            f"attention: {type(model).__name__} has no {attention}, only {found}; leave --attention out or give {found}"
        )


class _Generation:
    """Greedy decoding by hand, so that prefill and decoding are timed apart. `runs` is what computes the model."""

    def __init__(self, model: PreTrainedModel, runs: Runs, new_tokens: int) -> None:
        self.model, self.runs, self.new_tokens = model, runs, new_tokens

    def prefill(self, batch: Batch) -> tuple[dict[str, Any], Tensor]:
        """The first token [batch, 1], and what the next ones need: cache, mask, outputs of the encoder."""
        inputs: dict[str, Any] = dict(batch)
        if self.model.config.is_encoder_decoder:
            start = self.model.config.decoder_start_token_id or 0
            inputs["decoder_input_ids"] = torch.full_like(inputs["decoder_input_ids"][:, :1], start)
        elif "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            inputs["logits_to_keep"] = 1
        outputs = self.runs(**inputs, use_cache=True)
        state = {"past_key_values": outputs.past_key_values}
        if self.model.config.is_encoder_decoder:
            state["encoder_outputs"] = (outputs.encoder_last_hidden_state,)
        if "attention_mask" in inputs:
            state["attention_mask"] = inputs["attention_mask"]
        return state, outputs.logits[:, -1:].argmax(-1)

    def decode(self, start: tuple[dict[str, Any], Tensor]) -> Tensor:
        """The last of the tokens [batch, 1] that follow the first."""
        state, token = start
        name = "decoder_input_ids" if self.model.config.is_encoder_decoder else "input_ids"
        for _ in range(self.new_tokens):
            if name == "input_ids" and "attention_mask" in state:
                mask = state["attention_mask"]
                state["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            token = self.runs(**{name: token}, **state, use_cache=True).logits[:, -1:].argmax(-1)
        return token
