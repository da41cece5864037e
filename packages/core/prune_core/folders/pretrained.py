"""Reading pretrained models, from a folder or the hub: in float32, quietly, and with one-line errors."""

import logging
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from prune_core.errors import ModelError, brief
from prune_core.logs import at_level

logger = logging.getLogger(__name__)

POSITIONS_BEHIND_PADDING = frozenset(
    (
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    )
)
"""Model types that number the positions of a text from behind the index of the padding token, as RoBERTa does."""


_BAD_CONFIG = (OSError, ValueError, KeyError, StrictDataclassError, AttributeError, TypeError)
"""No file or no JSON; an unknown type; a field of the wrong kind, which transformers checks or just takes apart."""
_BAD_MODEL = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    ArithmeticError,
    AttributeError,
    TypeError,
    SafetensorError,
    UnpicklingError,
)
"""No weights; an impossible size (0 heads: a division by zero); other sizes of weights; a damaged file."""


def read_config(path: str) -> PreTrainedConfig:
    """The configuration of a model folder or hub name; ModelError when there is none."""
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{path} is no model folder: it holds no config.json")
    if folder.is_file() or (not folder.is_dir() and (path.startswith(("/", ".", "~")) or path.count("/") > 1)):
        raise ModelError(
            f"{path} is no model folder" + (": it is a file" if folder.is_file() else ": nothing is there")
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
        return config
    except _BAD_CONFIG as error:
        raise ModelError(f"{path} is no model that can be read: {brief(error)}") from error


def usable_length(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model of this configuration takes; None where it states no limit.

    RoBERTa and its kin use only the positions behind the padding token's index: 512 of 514.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1
        return None
    if config.model_type in POSITIONS_BEHIND_PADDING:
        return positions - (config.pad_token_id or 0) - 1
    return positions


def auto_classes(auto: Any, config: PreTrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """The model classes that an Auto class has for a configuration."""
    mapping = getattr(auto, "_model_mapping", None)
    found = () if mapping is None else mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)


def load_pretrained(auto_class: Any, path: str, *, new_head: bool = False, **options: Any) -> PreTrainedModel:
    """`auto_class.from_pretrained(path)`, in float32 unless `dtype` is given; heads that the checkpoint lacks are new,
    with `new_head` those that have other sizes in it too, and what has an output for each label whatever its size.

    ModelError when it cannot be loaded, when weights below the head are missing, when sizes disagree with the
    configuration, or when it has layers too many.
    """
    try:
        with _without_report():
            # transformers tells other sizes in a log only: they are refused here, by name
            options = {"dtype": "float32", "trust_remote_code": False, "ignore_mismatched_sizes": True, **options}
            model, report = auto_class.from_pretrained(path, output_loading_info=True, **options)
    except _BAD_MODEL as error:
        raise ModelError(f"the model at {path} cannot be loaded: {brief(error)}") from error
    _refuse_sizes(model, sorted(report["mismatched_keys"]), path, new_head)
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    _refuse_holes(model, missing, report["unexpected_keys"], path)
    _refuse_layers(model, report["unexpected_keys"], path)
    if missing:
        logger.info("%s lacks %s: they start at random", path, ", ".join(missing))
    if new_head and (old := _renewed_outputs(model, missing)):
        logger.info("%s has %s of other labels: they start at random", path, ", ".join(old))
    return model  # type: ignore[no-any-return]


def load_saved(path: str, dtype: str = "float32") -> PreTrainedModel:
    """The model at `path` as the class that saved it (`architectures` in its config); `auto` is the dtype it has there.

    ModelError when there is none, when its class is unknown to transformers, or when any weight is missing.
    """
    config = read_config(path)
    return load_pretrained(saved_class(config, path) if config.architectures else AutoModel, path, dtype=dtype)


def from_state(model: PreTrainedModel, config: PreTrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the class of `model`, in evaluation mode, as transformers builds it from these two; none is copied."""
    options = {"dtype": model.dtype, "attn_implementation": model.config._attn_implementation}
    with _without_report():
        built: PreTrainedModel = type(model).from_pretrained(None, config=config, state_dict=state, **options)
    built.config._name_or_path = built.name_or_path = model.config._name_or_path
    if hasattr(model, "generation_config"):
        built.generation_config = model.generation_config
    return built


def saved_class(config: PreTrainedConfig, path: str) -> Any:
    """The class that saved a model; ModelError where its configuration names none that transformers has."""
    names = [name for name in config.architectures or () if isinstance(name, str)]
    classes = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    if not classes:
        known = f"which transformers {transformers.__version__} does not know"
        raise ModelError(f"{path} was saved as {names[0]}, {known}" if names else f"{path} does not name its class")
    return classes[0]


def _refuse_sizes(
    model: PreTrainedModel, others: Sequence[tuple[str, torch.Size, torch.Size]], path: str, new_head: bool
) -> None:
    wrong = [found for found in others if not new_head or _below_head(model, found[0])]
    if wrong:
        (key, held, wanted), more = wrong[0], len(wrong) - 1
        also = f" (and {more} more parameters)" if more else ""
        raise ModelError(
            f"the weights at {path} do not fit its config.json: {key} is {list(held)} in the weights and "
            f"{list(wanted)} by the configuration{also}; is it the configuration of another model?"
        )


def _renewed_outputs(model: PreTrainedModel, new: Container[str]) -> list[str]:
    """Names of what has an output for each label, but for the `new`: random now as where the sizes are other ones.

    What lies between, such as RoBERTa's classifier.dense, is kept as there.
    """
    labels = len(model.config.id2label or ())
    old = [
        name
        for name, value in model.named_parameters()
        if value.shape[:1] == (labels,) and not _below_head(model, name) and name not in new
    ]
    for name in old:
        model.get_parameter(name)._is_hf_initialized = False  # type: ignore[attr-defined]
        for end in (0, *(place.start() for place in re.finditer(r"\.", name))):
            model.get_submodule(name[:end])._is_hf_initialized = False  # type: ignore[assignment]
    if old:
        model.initialize_weights()
    return old


def _below_head(model: PreTrainedModel, key: str) -> bool:
    return not hasattr(model, model.base_model_prefix) or key.startswith(f"{model.base_model_prefix}.")


def _refuse_holes(model: PreTrainedModel, missing: Iterable[str], unused: Container[str], path: str) -> None:
    holes = [key for key in missing if _below_head(model, key) and "pooler" not in key]
    if holes:
        hint = "is it the checkpoint of another model?"
        if f"{holes[0]}_orig" in unused:
            hint = (
                f"torch.nn.utils.prune left {holes[0]}_orig and a mask instead; `prune compact` makes a model of them"
            )
        raise ModelError(
            f"{path} holds no weights for {len(holes)} parameters of {type(model).__name__}, such as {holes[0]}: "
            f"they would be random; {hint}"
        )


def _refuse_layers(model: PreTrainedModel, unused: Iterable[str], path: str) -> None:
    """Other weights are rightly unused, as heads, poolers or mask tokens are; those of a layer make another model."""
    stacks = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for key in sorted(unused):
        for place in re.finditer(r"\.(\d+)\.", key):
            above = key[: place.start()]
            depths = [depth for name, depth in stacks.items() if _same_place(name, above)]
            if depths and int(place[1]) >= max(depths):
                raise ModelError(
                    f"{path} holds weights of more layers than its config.json states, such as {key}: "
                    f"{above} would have {max(depths)} of them"
                )


def _same_place(one: str, other: str) -> bool:
    """Whether two paths are the same but for a prefix: checkpoints of bare models lack that of models with a head."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers' table of new and unused weights, and its bar, off the screen: new heads are expected here."""
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with at_level("transformers", logging.ERROR):
            yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
