"""A broken plugin is named, with the stage and the reason, and takes nobody down with it."""

from collections.abc import Callable

import pytest

from prune_core.errors import PluginError
from prune_core.plugins import NotLoaded, Plugins

GOOD = """
@hookimpl
def prune_strategies():
    return [StrategySpec("good", "a good one", "good:Config", "good:Good")]
"""

SPEC = "@hookimpl\ndef prune_strategies():\n    return [StrategySpec({})]\n"

BROKEN = {
    "no such module": ("import no_such_module_anywhere\n", "import", "no_such_module_anywhere"),
    "raises on import": ("raise RuntimeError('no licence')\n", "import", "RuntimeError: no licence"),
    "exits on import": ("raise SystemExit(3)\n", "import", "SystemExit"),
    "syntax error": ("def broken(:\n", "import", "SyntaxError"),
    "misspelt hook": ("@hookimpl\ndef prune_strategy():\n    return []\n", "registration", "prune_strategy"),
    "unknown argument": ("@hookimpl\ndef prune_strategies(model):\n    return []\n", "registration", "model"),
    "no @hookimpl": ("def prune_strategies():\n    return []\n", "registration", "lacks @hookimpl"),
    "no hook at all": ("ANSWER = 42\n", "registration", "implements none of"),
    "hook raises": ("@hookimpl\ndef prune_strategies():\n    return 1 / 0\n", "prune_strategies", "ZeroDivisionError"),
    "hook exits": ("@hookimpl\ndef prune_strategies():\n    raise SystemExit\n", "prune_strategies", "SystemExit"),
    "not a list": ("@hookimpl\ndef prune_strategies():\n    return 3\n", "prune_strategies", "not iterable"),
    "list of names": ("@hookimpl\ndef prune_strategies():\n    return ['mine']\n", "prune_strategies", "StrategySpec"),
    "name is a list": (SPEC.format("['a'], 's', 'x:X', 'x:Y'"), "prune_strategies", "name: "),
    "name is a number": (SPEC.format("5, 's', 'x:X', 'x:Y'"), "prune_strategies", "name: "),
    "no target": (SPEC.format("'n', 's', 'x:X', None"), "prune_strategies", "target: "),
    "no config": (SPEC.format("'n', 's', None, 'x:Y'"), "prune_strategies", "config: "),
    "spec of another kind": (
        "@hookimpl\ndef prune_strategies():\n    return [CompactorSpec('x', 'x', 'x:X')]\n",
        "prune_strategies",
        "StrategySpec",
    ),
}

Add = Callable[..., None]
Load = Callable[..., Plugins]


def only_failure(plugins: Plugins) -> NotLoaded:
    (failure,) = plugins.not_loaded
    return failure


@pytest.mark.parametrize("why", BROKEN)
def test_broken_plugin_is_named_and_isolated(why: str, add: Add, load: Load) -> None:
    everything = load()
    source, stage, reason = BROKEN[why]
    add("prune-broken", source)
    add("prune-good", GOOD)
    found = load()
    failure = only_failure(found)
    assert (failure.distribution, failure.entry_point, failure.stage) == ("prune-broken", "main", stage)
    assert reason in failure.reason
    assert found.strategy("good").summary == "a good one"
    others = [offer for offer in found.offers if offer.distribution != "prune-good"]
    assert others == list(everything.offers)


def test_only_the_hook_that_raises_is_lost(add: Add, load: Load) -> None:
    raising = "@hookimpl\ndef prune_compactors():\n    raise OSError('disk')\n"
    add("prune-half", GOOD + raising)
    found = load()
    assert only_failure(found).stage == "prune_compactors"
    assert "good" in found.names("strategies")


@pytest.mark.parametrize("group", ["prune.v0", "prune.v2", "prune.v17"])
def test_another_version_of_the_interface_is_reported_not_imported(group: str, add: Add, load: Load) -> None:
    add("prune-other", "raise SystemExit('must not be imported')\n", group=group)
    failure = only_failure(load())
    assert failure.distribution == "prune-other"
    assert failure.stage == "discovery"
    assert group in failure.reason
    assert "prune.v1" in failure.reason


@pytest.mark.parametrize("group", ["prune", "prune.strategies", "prunes.v1", "prune.v1.more"])
def test_groups_of_others_are_none_of_our_business(group: str, add: Add, load: Load) -> None:
    add("prune-other", "raise SystemExit\n", group=group)
    assert load().not_loaded == ()


def test_asking_for_what_a_broken_plugin_would_offer_shows_its_reason(add: Add, load: Load) -> None:
    add("prune-broken", "raise RuntimeError('no licence')\n")
    with pytest.raises(PluginError) as error:
        load().strategy("theirs")
    assert "prune-broken (main) was not loaded: import: RuntimeError: no licence" in str(error.value)
    assert "hybrid" in str(error.value), "what is installed is named"
    assert "\n" not in str(error.value)


def test_a_name_with_two_owners_is_unusable_until_one_is_disabled(
    add: Add, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("prune-one", GOOD)
    add("prune-two", GOOD.replace("a good one", "another"))
    with pytest.raises(PluginError, match="prune-one and prune-two"):
        load().strategy("good")
    assert load("prune-two").strategy("good").summary == "a good one"
    monkeypatch.setenv("PRUNE_DISABLE", " Prune_One , ")
    assert load().strategy("good").summary == "another"
    assert load().strategy("hybrid").name == "hybrid"


def test_a_disabled_plugin_is_not_even_imported(add: Add, load: Load) -> None:
    add("prune-broken", "raise RuntimeError\n")
    found = load("prune.broken")
    assert found.not_loaded == ()
    assert found.disabled == ("prune-broken",)


def test_a_target_is_imported_when_it_is_used(add: Add, load: Load) -> None:
    add("prune-good", GOOD)
    plugins = load()
    with pytest.raises(PluginError, match=r"good:Good cannot be imported: ModuleNotFoundError"):
        plugins.load("strategies", "good")


def test_a_misspelt_name_gets_a_hint(load: Load) -> None:
    with pytest.raises(PluginError, match="did you mean 'hybrid'"):
        load().strategy("hybird")


@pytest.mark.parametrize(
    "source", [f"print('hello')\n{GOOD}", GOOD.replace("    return", "    print('hello')\n    return")]
)
def test_what_a_plugin_prints_is_no_answer(
    source: str, add: Add, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    add("prune-good", source)
    assert load().strategy("good").name == "good"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_a_misspelt_disabled_distribution_is_reported(load: Load) -> None:
    found = load("prune-hybird")
    assert found.strategy("hybrid").name == "hybrid"
    assert only_failure(found).distribution == "prune-hybird"
    assert "no such distribution is installed; did you mean 'prune-hybrid'" in only_failure(found).reason


def test_what_is_disabled_is_said_where_a_name_is_missing(load: Load) -> None:
    with pytest.raises(PluginError, match=r"unknown strategy 'hybrid': .*; disabled: prune-hybrid"):
        load("prune-hybrid").strategy("hybrid")
