"""The classes of a family: the bare model and every head that transformers has for its configuration."""

from __future__ import annotations

import copy
import sys
from functools import partial

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from prune_core.folders.pretrained import auto_classes
from prune_core.testing.tiny import random_model

_GENERATING = ("ForCausalLM", "LMHeadModel")


def head_classes(config: PreTrainedConfig) -> dict[str, type[PreTrainedModel]]:
    """By its name each class that an Auto class has for this configuration, or that stands beside such a one.

    Those that no Auto class knows, such as GPT2DoubleHeadsModel, are found in the `__all__` of the modules.
    """
    mapped = [cls for name in modeling_auto.__all__ for cls in auto_classes(getattr(modeling_auto, name), config)]
    modules = {cls.__module__: sys.modules[cls.__module__] for cls in mapped}.values()
    public = [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]
    return {cls.__name__: cls for cls in [*mapped, *(one for one in public if _is_model(one, config))]}


def tiny_head(cls: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model of this class in evaluation mode, its configuration changed to what the head needs.

    An answer's span has two labels; what generates looks back only.
    """
    config = copy.deepcopy(config)
    if cls.__name__.endswith("ForQuestionAnswering"):
        config.num_labels = 2
    if cls.__name__.endswith(_GENERATING) and hasattr(config, "is_decoder"):
        config.is_decoder = True
    return random_model(partial(cls, config), seed)


def _is_model(cls: object, config: PreTrainedConfig) -> bool:
    """Whether a public name is a model of this configuration that computes something: base classes do not."""
    return (
        isinstance(cls, type)
        and issubclass(cls, PreTrainedModel)
        and cls.config_class is type(config)
        and cls.forward is not nn.Module.forward
    )
