"""What turns texts, images or sounds into a model's inputs, found in its folder, so that it goes along."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from prune_core.errors import brief
from prune_core.tasks.tokens import is_invented

logger = logging.getLogger(__name__)

_KINDS = ("Processor", "Tokenizer", "ImageProcessor", "FeatureExtractor")
_TEXTS = ("tokenizer*", "vocab*", "merges*", "*.model", "*.spm", "*.tiktoken", "special_tokens_map.json")
"""Files of tokenizers, of any class; further ones go along with them."""
_REST = ("added_tokens.json", "normalizer.json", "chat_template.*")
_SIGNALS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files of what reads images and sounds."""


@dataclass(frozen=True)
class UnreadFiles:
    """The files of a tokenizer or processor that cannot be loaded here: they are saved as they are."""

    paths: tuple[Path, ...]

    def save_pretrained(self, folder: str | Path) -> None:
        for path in self.paths:
            shutil.copy(path, folder)


def find_processor(model: str | Path) -> Any:
    """Processor, tokenizer, image processor or feature extractor of a model folder or hub name; None without one.

    Where there are files of one that cannot be loaded, for want of a package for instance, it is `UnreadFiles` of all,
    and a warning says why: the folder that is written loads where the one that was read does.
    """
    errors: dict[str, Exception] = {}
    found = next(_loadable(model, errors), None)
    if not (left := _left_by(found)):
        return found
    folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(str(model), allow_patterns=[*_ALL]))
    unread = [name for name, patterns in left.items() if any(_matching(folder, patterns))]
    if not unread:
        return found
    error = errors.get("Tokenizer" if "tokenizer" in unread else "Processor")
    why = f" ({brief(error)})" if error else ""
    logger.warning("%s: its %s cannot be loaded%s: the files go along as they are", model, " and ".join(unread), why)
    return UnreadFiles(tuple(_matching(folder, _ALL)))


_ALL = (*_TEXTS, *_REST, *_SIGNALS)


def _loadable(model: str | Path, errors: dict[str, Exception]) -> Iterator[Any]:
    """What can be loaded, the most that there is first; `errors` takes why the others cannot."""
    for kind in _KINDS:
        try:
            found = getattr(transformers, f"Auto{kind}").from_pretrained(model, trust_remote_code=False)
        except Exception as error:  # a missing file shows up as almost any error
            errors[kind] = error
            continue
        if not (isinstance(found, PreTrainedTokenizerBase) and is_invented(found, model)):
            yield found


def _left_by(found: Any) -> dict[str, tuple[str, ...]]:
    """What something that was loaded does not save, by the files that would hold it."""
    tokenizer = isinstance(found, PreTrainedTokenizerBase)
    left = {"tokenizer": _TEXTS, "processor": _SIGNALS}
    if tokenizer or hasattr(found, "tokenizer"):
        del left["tokenizer"]
    if found is not None and not tokenizer:
        del left["processor"]
    return left


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and any(map(path.match, patterns)))
