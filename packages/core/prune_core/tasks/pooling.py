"""From token states to the embedding of a text, as the modules of sentence-transformers compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from prune_core.errors import ModelError, nearest
from prune_core.folders.sentence_transformers import Module, SentenceFolder


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return _sum(tokens, mask) / _count(mask)


def _mean_sqrt_len(tokens: Tensor, mask: Tensor) -> Tensor:
    return _sum(tokens, mask) / _count(mask).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The first token of a text counts once, the second twice and so on."""
    return _mean(tokens, mask * mask.cumsum(dim=1))


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


def _cls(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), mask.int().argmax(dim=1)]


def _last_token(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), mask.cumsum(dim=1).argmax(dim=1)]


def _sum(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask.unsqueeze(-1)).sum(dim=1)


def _count(mask: Tensor) -> Tensor:
    return mask.sum(dim=1, keepdim=True).clamp(min=1e-9)


_POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
"""By the name that a Pooling's configuration gives it, in the order in which several are put together."""

_FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Tanh, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}


@dataclass(frozen=True)
class Pooling:
    """Token states [texts, tokens, features] and their mask [texts, tokens] -> embeddings [texts, features * modes]."""

    modes: tuple[str, ...]

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens, mask = tokens.float(), mask.float()
        return torch.cat([_POOLING[mode](tokens, mask) for mode in self.modes], dim=-1)

    def __str__(self) -> str:
        return f"{' and '.join(self.modes)} pooling"


class Normalize:
    """Embeddings of length 1."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings, p=2, dim=-1)

    def __str__(self) -> str:
        return "length 1"


class Dense:
    """A linear layer with an activation, as it was trained: its weights stay as they are."""

    def __init__(self, weights: dict[str, Tensor], activation: str) -> None:
        self.weights, self.activation = weights, activation
        self._there: dict[tuple[torch.device, torch.dtype], list[Tensor | None]] = {}

    def __call__(self, embeddings: Tensor) -> Tensor:
        there = embeddings.device, embeddings.dtype
        if there not in self._there:  # sent once and for all, for the device is waited for
            named = (self.weights.get(f"linear.{name}") for name in ("weight", "bias"))
            self._there[there] = [None if one is None else one.to(embeddings) for one in named]
        weight, bias = self._there[there]
        assert weight is not None
        found: Tensor = _ACTIVATIONS[self.activation]()(F.linear(embeddings, weight, bias))
        return found

    def __str__(self) -> str:
        total = sum(float(value.double().abs().sum()) for value in self.weights.values())
        shape = "x".join(map(str, self.weights["linear.weight"].shape))
        return f"a layer of {shape} weights (sum {total:.6g}) and {self.activation}"


class Embedder:
    """What makes the embedding of a text: a pooling, then `steps` in their order."""

    def __init__(self, pooling: Pooling, steps: list[Normalize | Dense]) -> None:
        self.pooling, self.steps = pooling, steps

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [texts, features] of token states [texts, tokens, features] and their mask [texts, tokens]."""
        embeddings = self.pooling(tokens, mask)
        for step in self.steps:
            embeddings = step(embeddings)
        return embeddings

    def __str__(self) -> str:
        return ", ".join(map(str, (self.pooling, *self.steps)))


MEAN = Embedder(Pooling(("mean",)), [Normalize()])
"""What a transformer gets that says nothing of embeddings."""


def read_embedder(folder: SentenceFolder) -> Embedder:
    """What the modules of a folder compute; ModelError for one that is not known here."""
    _, *rest = folder.modules
    if not rest or rest[0].kind != "Pooling":
        found = rest[0].type if rest else "nothing"
        raise ModelError(f"{folder.source}: a Pooling was expected behind the transformer, found {found}")
    pooling = _pooling(folder, rest[0])
    return Embedder(pooling, [_step(folder, module) for module in rest[1:]])


def _pooling(folder: SentenceFolder, module: Module) -> Pooling:
    config = folder.config(module)
    named = config.get("pooling_mode") or [mode for mode in _POOLING if config.get(_flag(mode))] or "mean"
    modes = (named,) if isinstance(named, str) else tuple(named)
    unknown = [str(mode) for mode in modes if mode not in _POOLING]
    if unknown:
        raise ModelError(f"{folder.source}: unknown pooling {unknown[0]!r}; {nearest(unknown[0], _POOLING)}")
    if not config.get("include_prompt", True) and prompt_of(folder.settings):
        raise ModelError(f"{folder.source}: its pooling leaves the tokens of a prompt out, which is not supported")
    return Pooling(modes)


def _flag(mode: str) -> str:
    """The field that stood for a pooling before `pooling_mode` did."""
    return "pooling_mode_" + {"mean_sqrt_len_tokens": mode}.get(mode, _FLAGS.get(mode, f"{mode}_tokens"))


def _step(folder: SentenceFolder, module: Module) -> Normalize | Dense:
    config = folder.config(module)
    names = {config.get(f"module_{end}_name") or "sentence_embedding" for end in ("input", "output")}
    if module.kind not in ("Normalize", "Dense") or names != {"sentence_embedding"} or config.get("use_residual"):
        raise ModelError(
            f"{folder.source}: the module {module.type} ({module.path}), as it is set up, is not supported; "
            "only Pooling, Dense and Normalize on the embedding are"
        )
    return Normalize() if module.kind == "Normalize" else _dense(folder, module, config)


def _dense(folder: SentenceFolder, module: Module, config: dict[str, Any]) -> Dense:
    kind = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = kind.rpartition(".")[2]
    if name not in _ACTIVATIONS or not kind.startswith("torch.nn."):
        raise ModelError(
            f"{folder.source}: the activation {kind} of {module.path} is none of {', '.join(_ACTIVATIONS)}"
        )
    return Dense(load_file(folder.root / module.path / "model.safetensors"), name)


def prompt_of(settings: dict[str, Any]) -> str:
    """What is put before every text; "" for nothing."""
    name = settings.get("default_prompt_name")
    return str(settings.get("prompts", {}).get(name) or "") if name else ""
