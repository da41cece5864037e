"""prune plugins and prune strategies: what is installed, what is broken, and every field."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SPEC = "from prune_core.hookspecs import StrategySpec, CompactorSpec, hookimpl\n"


def _offers(result) -> set[tuple[str, str, str]]:
    return {(offer["distribution"], offer["kind"], offer["name"]) for offer in json.loads(result.out)["offers"]}


def test_everything_that_is_offered(prune: Callable, sample: Path) -> None:
    result = prune("plugins", "--json")
    assert result.code == 0
    assert {
        ("prune-core", "compactors", "dense"),
        ("prune-core", "tasks", "text-classification"),
        ("prune-core", "architectures", "bert"),
        ("prune-sample", "strategies", "sample"),
    } <= _offers(result)
    table = prune("plugins").out
    assert "prune-sample" in table
    assert "a sample of a strategy" in table


def test_disabled_plugins_are_named(prune: Callable, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_DISABLE", "prune_sample")
    result = prune("plugins", "--json")
    assert ("prune-sample", "strategies", "sample") not in _offers(result)
    assert json.loads(result.out)["disabled"] == ["prune-sample"]
    assert "disabled: prune-sample" in prune("plugins").out


def test_a_broken_plugin_is_named_and_leaves_the_others(prune: Callable, distribution: Callable, sample: Path) -> None:
    distribution("prune-bad", {"bad": "bad_plugin"}, bad_plugin="raise OSError('no licence')\n")
    result = prune("plugins", "--json")
    assert result.code == 0
    assert ("prune-sample", "strategies", "sample") in _offers(result)
    (failure,) = json.loads(result.out)["not_loaded"]
    assert failure["distribution"] == "prune-bad"
    assert "no licence" in failure["reason"]
    assert "Not loaded" in prune("plugins").out
    assert "prune-bad" in prune("strategies").err


def test_a_broken_plugin_explains_its_missing_strategy(prune: Callable, distribution: Callable) -> None:
    distribution("prune-bad", {"bad": "bad_plugin"}, bad_plugin="raise OSError('no\\nlicence')\n")
    result = prune("run", "--strategy", "theirs")
    assert result.code == 4
    assert len(result.errors) == 1
    assert "unknown strategy 'theirs'" in result.err
    assert "prune-bad (bad) was not loaded: import: OSError: no licence" in result.err


def test_a_plugin_of_another_version_is_reported_not_imported(prune: Callable, distribution: Callable) -> None:
    distribution("prune-old", {"old": "old_plugin"}, group="prune.v0", old_plugin="raise SystemExit\n")
    (failure,) = json.loads(prune("plugins", "--json").out)["not_loaded"]
    assert failure["distribution"] == "prune-old"
    assert "prune.v0" in failure["reason"]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours is offered, so that --strict has only the test's own plugins to import."""
    monkeypatch.setenv("PRUNE_DISABLE", "prune-core,prune-unstructured,prune-block,prune-hybrid,prune-structured")


def test_strict_passes_for_everything_of_ours(prune: Callable) -> None:
    result = prune("plugins", "--strict")
    assert result.code == 0, result.err + result.out


@pytest.mark.usefixtures("alone")
def test_strict_fails_for_what_was_not_loaded(prune: Callable, distribution: Callable) -> None:
    distribution("prune-bad", {"bad": "bad_plugin"}, bad_plugin="raise OSError\n")
    result = prune("plugins", "--strict")
    assert result.code == 4
    assert result.errors == ["prune: error: prune-bad is broken"]
    assert "Not loaded" in result.out


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("no_such_module:Thing", "no_such_module"),
        ("lazy_target:Missing", "Missing"),
        ("lazy_target:Wrong", "is no Compactor"),
        ("lazy_target:function", "is no Compactor"),
    ],
)
def test_strict_imports_every_target(target: str, part: str, prune: Callable, distribution: Callable) -> None:
    hook = f"@hookimpl\ndef prune_compactors():\n    return [CompactorSpec('lazy', 'imports late', {target!r})]\n"
    lazy = "class Wrong: ...\ndef function(): ...\n"
    distribution("prune-lazy", {"lazy": "lazy_plugin"}, lazy_plugin=SPEC + hook, lazy_target=lazy)
    assert prune("plugins").code == 0
    result = prune("plugins", "--strict", "--json")
    assert result.code == 4
    assert "prune-lazy is broken" in result.err
    reasons = {f["distribution"]: f["reason"] for f in json.loads(result.out)["not_loaded"]}
    assert part in reasons["prune-lazy"]


@pytest.mark.usefixtures("alone")
def test_strict_checks_configurations_too(prune: Callable, distribution: Callable) -> None:
    hook = "@hookimpl\ndef prune_strategies():\n    return [StrategySpec('odd', 'x', 'odd_parts:C', 'odd_parts:S')]\n"
    parts = "from prune_core.strategy import Strategy\nclass S(Strategy): ...\nclass C: ...\n"
    distribution("prune-odd", {"odd": "odd_plugin"}, odd_plugin=SPEC + hook, odd_parts=parts)
    reasons = [f["reason"] for f in json.loads(prune("plugins", "--strict", "--json").out)["not_loaded"]]
    assert any("is no StrategyConfig" in reason for reason in reasons)
    assert prune("run", "--strategy", "odd").code == 4
    assert "is no StrategyConfig" in prune("strategies", "odd").err


def test_two_owners_of_one_name(prune: Callable, distribution: Callable, sample: Path) -> None:
    hook = "@hookimpl\ndef prune_strategies():\n    return [StrategySpec('sample', 'again', 'a:b', 'a:b')]\n"
    distribution("prune-twin", {"twin": "twin_plugin"}, twin_plugin=SPEC + hook)
    assert json.loads(prune("plugins", "--json").out)["several_owners"]
    assert "unusable until one is disabled" in prune("plugins").out
    result = prune("run", "--strategy", "sample")
    assert result.code == 4
    assert "prune-sample and prune-twin" in result.err
    assert "PRUNE_DISABLE=" in result.err
    assert "prune-twin" in prune("plugins", "--strict").err


def test_the_list_of_strategies(prune: Callable, sample: Path) -> None:
    found = {row["name"]: row for row in json.loads(prune("strategies", "--json").out)}
    assert found["sample"] == {
        "name": "sample",
        "summary": "a sample of a strategy",
        "distribution": "prune-sample",
        "version": "1.2",
    }
    assert "a sample of a strategy" in prune("strategies").out


def test_every_field_of_a_strategy(prune: Callable, sample: Path) -> None:
    found = {row.pop("name"): row for row in json.loads(prune("strategies", "sample", "--json").out)["fields"]}
    assert list(found) == ["density", "how", "rate", "steps", "inner.depth"]
    assert found["density"] == {
        "type": "number",
        "default": 0.5,
        "allowed": "> 0, <= 1",
        "description": "Share that remains.",
    }
    assert found["how"]["allowed"] == "topk, threshold"
    assert found["rate"]["type"] == "number or none"
    assert found["rate"]["default"] is None
    assert found["steps"]["default"] == "required"
    assert found["inner.depth"]["allowed"] == ">= 1"


def test_the_table_of_fields(prune: Callable, sample: Path) -> None:
    table = prune("strategies", "sample").out
    for part in ("sample: a sample of a strategy", "inner.depth", "none", "required", "topk, threshold"):
        assert part in table


def test_every_field_of_every_installed_strategy_is_described(prune: Callable) -> None:
    names = [row["name"] for row in json.loads(prune("strategies", "--json").out)]
    for name in names:
        fields = json.loads(prune("strategies", name, "--json").out)["fields"]
        assert fields
        for field in fields:
            assert field["description"], (name, field["name"])
            assert field["type"] != "any", (name, field["name"])
