"""What happens inside a model while a batch goes through it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def evaluating(*models: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode for a while."""
    were_training = [model.training for model in models]
    for model in models:
        model.train(False)
    try:
        yield
    finally:
        for model, training in zip(models, were_training, strict=True):
            model.train(training)


def inputs_inside(model: PreTrainedModel, layers: Iterable[str], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Module path -> what that layer gets of the batch, in evaluation mode; those that do not run are left out."""
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[name] = given[0].detach()

    with ExitStack() as hooks, torch.inference_mode(), evaluating(model):
        for name in layers:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(partial(keep, name)))
        model(**batch)
    return found
