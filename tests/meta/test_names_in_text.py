"""Modules, classes and hooks that the documentation names are there."""

import importlib
import re

import pytest

from prune_core.architectures import Architecture
from prune_core.hookspecs import StrategySpec
from prune_core.kit.masking import MaskingStrategy
from prune_core.plugins import KINDS, load_plugins
from tests.meta.test_readme import DOCUMENTS, PACKAGE_READMES, text_of
from tests.meta.tree import projects

STRATEGY_READMES = [document for document in PACKAGE_READMES if "strategies" in document]
PLUGINS_PAGE = text_of("docs/plugins.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_dotted_name_of_ours_can_be_imported(document: str) -> None:
    ours = "|".join(sorted(projects()))
    for name in re.findall(rf"`((?:{ours})(?:\.\w+)+)", text_of(document)):
        _find(name)


def test_what_a_masking_strategy_is_said_to_set_or_override_is_there() -> None:
    (sentence,) = re.findall(r"a masking strategy may\s+set .*?\)\.\n", PLUGINS_PAGE, flags=re.DOTALL)
    names = re.findall(r"`(\w+)(?: = True)?`", sentence)
    assert len(names) >= 3
    for name in names:
        assert hasattr(MaskingStrategy, name), f"docs/plugins.md names {name}"


def test_the_table_of_hooks_names_all_of_them() -> None:
    assert re.findall(r"^\| `(prune_\w+)` \|", PLUGINS_PAGE, flags=re.MULTILINE) == [f"prune_{kind}" for kind in KINDS]


def test_the_core_names_every_family_that_it_loads() -> None:
    text = text_of("packages/core/README.md").lower().replace("-", "")
    families = [offer.spec for offer in load_plugins().offers if offer.distribution == "prune-core"]
    for spec in families:
        for model_type in spec.model_types if isinstance(spec, Architecture) else ():
            assert model_type.replace("-", "") in text, model_type


@pytest.mark.parametrize("document", STRATEGY_READMES)
def test_a_strategy_names_its_own_classes(document: str) -> None:
    text = text_of(document)
    (offer,) = [o for o in load_plugins().offers if f"# {o.distribution}\n" in text and o.kind == "strategies"]
    spec = offer.spec
    assert isinstance(spec, StrategySpec)
    for target in (spec.target, spec.config):
        assert f"`{target.replace(':', '.')}`" in text
    assert f'`"{spec.name}"` as the strategy' in text


def test_the_section_that_strategies_refer_to_exists() -> None:
    assert len(STRATEGY_READMES) == 4
    for document in STRATEGY_READMES:
        (section,) = re.findall(r'see "(.*?)" in the README of prune-core', text_of(document))
        assert f"## {section}\n" in text_of("packages/core/README.md")


def _find(name: str) -> object:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"there is no {name}")
