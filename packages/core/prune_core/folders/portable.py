"""The portable file: a compact folder's own modelling code, for `trust_remote_code=True` where prune_core is not.

It is cut out of this package's sources, so that it is the code that compaction and loading run; it stands on torch and
transformers alone. prune_core itself never runs it.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

from prune_core import __version__
from prune_core.architectures import Architecture
from prune_core.described import ArchitectureSection
from prune_core.errors import ModelError
from prune_core.files import write_text
from prune_core.folders.pretrained import auto_classes, read_config, saved_class
from prune_core.plugins import Plugins

MODULE = "modeling_prune"
_NEEDS = {"sparse": "zeros on disk", "no_norm": "no_norm", "embedding_bits": "embeddings in few bits"}
"""What loading needs of prune_core, by the field of the configuration that asks for it."""
_ROOTS = (
    ("prune_core.structure", "discover"),
    ("prune_core.compaction.restore", "restore"),
    ("prune_core.architectures", "Architecture"),
    ("prune_core.architectures", "AttentionLayout"),
    ("prune_core.architectures", "FeedForwardLayout"),
    ("prune_core.architectures", "Stack"),
)
HEADER = '''"""A compact model that loads without prune_core: from_pretrained(folder, trust_remote_code=True).

Written by prune-core {version}: the stock classes, cut at construction to the sizes in config.json.
"""
# their attention is chosen as ever, by ALL_ATTENTION_FUNCTIONS.get_interface(); transformers looks here for that name
from __future__ import annotations

{imports}
import {stock} as stock


def import_target(target):
    return globals()[target.partition(":")[2]]


'''
FOOTER = """

ARCHITECTURES = [
    {families},
]


class _Compact:
    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        recorded = getattr(config, "quantization_config", None)
        if isinstance(recorded, dict):  # else prune_core is imported, and cuts the model by itself
            restore(self, discover(self, ARCHITECTURES), recorded["units"])

    @classmethod
    def is_custom_code(cls):  # names of weights on disk are converted as the stock class's are
        return False
"""


@dataclass
class _Source:
    """The definitions of a module by name, and where its other names come from: (module, name) or an import line."""

    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, tuple[str, str] | str] = field(default_factory=dict)


def make_portable(folder: Path, plugins: Plugins) -> None:
    """Write the file into a compact folder, and its classes into the config.json there.

    A model of which nothing was removed needs no such file. ModelError where it would not be enough.
    """
    config = read_config(str(folder))
    recorded: Any = getattr(config, "quantization_config", None)
    if recorded is None:
        return
    recorded = recorded if isinstance(recorded, dict) else recorded.to_dict()
    families = _families(config.model_type, recorded, plugins)
    refuse_unportable(families, *needs_of(config))
    stock = saved_class(config, str(folder)).__module__
    names = _auto_classes(config, stock)
    classes = "".join(f"\n\nclass {n}(_Compact, stock.{n}):\n    pass\n" for n in sorted(set(names.values())))
    write_text(folder / f"{MODULE}.py", _head(families, stock) + classes)
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    data["auto_map"] = {auto: f"{MODULE}.{name}" for auto, name in names.items()}
    write_text(folder / "config.json", json.dumps(data, indent=2) + "\n")


def refuse_unportable(families: list[Architecture], *needs: str) -> None:
    """ModelError where loading needs more of prune_core (`needs`), or code of a plugin's."""
    strange = [target for target in _adapters(families) if not target.startswith("prune_core.")]
    if needs or strange:
        reason = f"loading needs {needs[0]}" if needs else f"its family needs {strange[0]}"
        raise ModelError(f"--portable: this model cannot load without prune_core, for {reason}; leave --portable out")


def needs_of(config: Any, **to_come: bool) -> list[str]:
    """What loading needs of prune_core beside the sizes, by the configuration of a model, and by what it is `to_come`
    to have.
    """
    recorded = getattr(config, "quantization_config", None) or {}
    recorded = recorded if isinstance(recorded, dict) else recorded.to_dict()
    return [what for field, what in _NEEDS.items() if recorded.get(field) or to_come.get(field)]


def forget(config: Any) -> None:
    """Take our classes out of a loaded configuration: a folder that it is saved to has no such file."""
    kept = {auto: name for auto, name in (getattr(config, "auto_map", None) or {}).items() if MODULE not in str(name)}
    config.__dict__.pop("auto_map", None)
    if kept:
        config.auto_map = kept


def _families(model_type: str, recorded: dict[str, Any], plugins: Plugins) -> list[Architecture]:
    if recorded.get("architecture"):
        return [ArchitectureSection.model_validate(recorded["architecture"]).layout(model_type, (model_type,))]
    return plugins.families(model_type, recorded.get("plugin"))[0]


def _adapters(families: list[Architecture]) -> list[str]:
    units = [unit for family in families for stack in family.stacks for unit in stack.attention.values()]
    return sorted({unit.adapter for unit in units if unit.adapter})


def _auto_classes(config: PreTrainedConfig, module: str) -> dict[str, str]:
    """Auto class -> the stock class of this configuration that it loads, of those in one module."""
    found: dict[str, str] = {}
    for auto in modeling_auto.__all__:
        for one in auto_classes(getattr(modeling_auto, auto), config):
            if one.__module__ == module:
                found.setdefault(auto, one.__name__)
    return found


def _head(families: list[Architecture], stock: str) -> str:
    """Everything but the classes: imports, the definitions that are needed, and the family's layouts."""
    written: dict[str, tuple[str, str]] = {}
    imports: set[str] = set()
    targets = [target.partition(":") for target in _adapters(families)]
    for module, name in (*_ROOTS, *((module, name) for module, _, name in targets)):
        _collect(module, name, written, imports)
    layouts = ",\n    ".join(map(repr, families))
    head = HEADER.format(version=__version__, imports="\n".join(sorted(imports)), stock=stock)
    return head + "\n\n\n".join(text for _, text in written.values()) + FOOTER.format(families=layouts)


def _collect(module: str, name: str, written: dict[str, tuple[str, str]], imports: set[str]) -> None:
    """Add a definition of one of our modules, after those that it needs; `written` is name -> module and text."""
    source = _source(module)
    if name in source.imported:
        origin = source.imported[name]
        if isinstance(origin, str):
            imports.add(origin)
        elif origin != ("prune_core.plugins", "import_target"):
            _collect(*origin, written, imports)
        return
    node = source.definitions.get(name)
    if node is None:
        return
    if name in written:
        if written[name][0] != module:
            raise ModelError(f"--portable: {module} and {written[name][0]} both define {name}: rename one of them")
        return
    written[name] = (module, "")  # keeps its place from what refers to it in a circle
    for used in dict.fromkeys(child.id for child in ast.walk(node) if isinstance(child, ast.Name)):
        _collect(module, used, written, imports)
    del written[name]
    written[name] = (module, ast.unparse(node))


@lru_cache(maxsize=64)
def _source(module: str) -> _Source:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found = _Source()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found.definitions |= {one.id: node for one in ast.walk(target) if isinstance(one, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.imported |= _imported(node)
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str] | str]:
    """What an import statement brings, by the name that it gets here."""
    if isinstance(node, ast.Import):
        return {(one.asname or one.name): ast.unparse(ast.Import([one])) for one in node.names}
    module = node.module or ""
    ours = module.partition(".")[0] == "prune_core"
    return {
        (one.asname or one.name): (module, one.name) if ours else ast.unparse(ast.ImportFrom(module, [one], 0))
        for one in node.names
    }
