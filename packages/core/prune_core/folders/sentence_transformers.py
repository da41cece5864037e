"""Folders of sentence-transformers: what lies beside the transformer, read and copied without running any of it."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import PreTrainedModel

from prune_core.errors import ModelError, brief
from prune_core.folders.pretrained import read_config

logger = logging.getLogger(__name__)

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
TRANSFORMER_SETTINGS = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
"""Where a folder may say how its transformer takes texts: the first one that is there counts."""
_COPIED = (".json", ".safetensors", ".txt")
_MODEL_TYPES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")
_PACKAGE = "sentence_transformers."


@dataclass(frozen=True)
class Module:
    """One step from a text to its embedding: its class by name, and its folder below the model's ("" for the same)."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The name of the class alone, such as Pooling."""
        return self.type.rpartition(".")[2]


@dataclass(frozen=True)
class SentenceFolder:
    """A transformer that lies in `root`, and the modules that make one embedding of what it says of each token."""

    source: str
    root: Path
    modules: tuple[Module, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Prompts and the like; empty where none are kept."""
        return self._json(self.root / SETTINGS)

    @property
    def model_type(self) -> str:
        """The class of sentence-transformers that loads the folder."""
        named = self.settings.get("model_type")
        return named if named in _MODEL_TYPES else _MODEL_TYPES[0]

    @property
    def transformer_settings(self) -> dict[str, Any]:
        """How the transformer takes texts, such as max_seq_length; empty where it does not say."""
        return next(filter(None, (self._json(self.root / name) for name in TRANSFORMER_SETTINGS)), {})

    def config(self, module: Module) -> dict[str, Any]:
        """The configuration of a module, empty where it has none."""
        return self._json(self.root / module.path / "config.json")

    def copy_to(self, folder: Path) -> None:
        """Copy everything but the transformer itself, which `save_pretrained` writes, to `folder`."""
        for file in self.files():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / file, target)

    def files(self) -> Iterator[Path]:
        """What is copied, below `root`: the listing, the known configurations, and data files of the modules listed."""
        named = [self.root / name for name in (MODULES, SETTINGS, *TRANSFORMER_SETTINGS)]
        folders = [self.root / module.path for module in self.modules if module.path]
        for file in [*named, *itertools.chain.from_iterable(map(_data_files, folders))]:
            if not _within(file, self.root):
                raise ModelError(f"{file} is a link that leads outside {self.source}; nothing is read or copied")
            if file.is_file():
                yield file.relative_to(self.root)

    def check(self) -> SentenceFolder:
        """Itself; ModelError where the transformer lies elsewhere, a link leads outside, or weights are a pickle."""
        if not self.modules or self.modules[0].path:
            where = self.modules[0].path if self.modules else "nowhere"
            raise ModelError(f"{self.source}: the transformer lies in {where}, not beside {MODULES}: {_SAVE_AGAIN}")
        for module in self.modules[1:]:
            folder = self.root / module.path
            if (module.kind == "Dense" or any(folder.glob("*.bin"))) and not any(folder.glob("*.safetensors")):
                raise ModelError(f"{folder} holds no weights as safetensors, which alone are read: {_SAVE_AGAIN}")
        list(self.files())
        return self

    def _json(self, path: Path) -> dict[str, Any]:
        found = _read(path, self.source) if path.is_file() else {}
        if isinstance(found, dict):
            return found
        raise ModelError(f"{path} holds no settings: a mapping was expected, found {type(found).__name__}")


_SAVE_AGAIN = "load the folder in SentenceTransformer and save it again with save_pretrained"


def sentence_folder(source: str) -> SentenceFolder | None:
    """The sentence-transformers folder at a path or hub name; None where there is no modules.json.

    ModelError where it is damaged, names paths outside itself, or cannot be looked for.
    """
    try:
        return _found(source)
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"whether {source} has a {MODULES} cannot be seen without the hub: {brief(error)}; "
            f"download it once (hf download {source}), or name a folder"
        ) from error


def companions(source: str, model: PreTrainedModel) -> SentenceFolder | None:
    """What shall lie beside `model`, pruned from the one at `source`, so that sentence-transformers loads it again.

    None where `source` is no folder of sentence-transformers, or `model` has another head than what lies there: the
    modules would get other outputs. ModelError where the folder is not what `sentence_folder` reads.
    """
    name = type(model).__name__
    if "For" in name and name not in (read_config(source).architectures or []):
        return None
    try:
        found = _found(source)
    except LocalEntryNotFoundError:
        logger.info("%s: no %s at hand; if the hub has one, its modules are not copied", source, MODULES)
        return None
    foreign = [module.type for module in found.modules if not module.type.startswith(_PACKAGE)] if found else []
    if foreign:
        logger.warning("%s needs code of its own (%s): its modules are not copied", source, foreign[0])
        return None
    return found


def _found(source: str) -> SentenceFolder | None:
    local = Path(source).is_dir()
    listing = Path(source) / MODULES if local else _cached(source)
    if listing is None or not listing.is_file():
        return None
    modules = _modules(listing, source)
    return SentenceFolder(source, Path(source) if local else _snapshot(source, modules), modules).check()


def _cached(source: str) -> Path | None:
    """The file modules.json of a model on the hub; None where it has none."""
    try:
        return Path(hf_hub_download(source, MODULES))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: {MODULES} cannot be looked for on the hub: {brief(error)}") from error


def _snapshot(source: str, modules: tuple[Module, ...]) -> Path:
    """A folder with what is copied of a model on the hub."""
    folders = [f"{module.path}/*{suffix}" for module in modules if module.path for suffix in _COPIED]
    wanted = [MODULES, SETTINGS, *TRANSFORMER_SETTINGS, *folders]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: its modules cannot be downloaded: {brief(error)}") from error


def _modules(listing: Path, source: str) -> tuple[Module, ...]:
    entries = _read(listing, source)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ModelError(f"{listing} is no list of modules: sentence-transformers did not write it")
    return tuple(_module(entry, listing) for entry in entries)


def _module(entry: dict[str, Any], listing: Path) -> Module:
    kind, path = entry.get("type"), entry.get("path")
    if not isinstance(kind, str) or not isinstance(path, str):
        raise ModelError(f"{listing}: a module has a type and a path, found {entry!r}")
    parted = PureWindowsPath(path)  # takes both kinds of slash for what they are
    if parted.anchor or ".." in parted.parts or "\0" in path:
        raise ModelError(f"{listing}: the path {path!r} leads outside the folder; nothing is read or copied")
    return Module(kind, path)


def _read(path: Path, source: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: {path.name} cannot be read: {brief(error)}") from error


def _data_files(folder: Path) -> list[Path]:
    """Configurations, vocabularies and safe weights of a module, and neither code nor pickles."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix in _COPIED)


def _within(path: Path, root: Path) -> bool:
    """Whether a path lies in a folder once links are followed, or where the cache of the hub keeps that folder's."""
    kept = root.resolve().parent.parent / "blobs"
    return path.resolve().is_relative_to(root.resolve()) or path.resolve().is_relative_to(kept)
