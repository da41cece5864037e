"""Help of every verb, and what must stay out of memory until a verb needs it."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from prune_cli.verbs import app

VERBS = (
    "run",
    "compact",
    "trim",
    "verify",
    "evaluate",
    "bench",
    "explain",
    "export",
    "inspect",
    "strategies",
    "tasks",
    "plugins",
)
HEAVY = ("torch", "transformers", "numpy", "datasets")
LIGHT_COMMANDS = (
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["plugins"],
    ["plugins", "--json"],
    ["strategies"],
    ["tasks"],
    ["tasks", "mnli"],
    ["run", "--strategy", "no-such-strategy"],
)


def _commands() -> dict[str, typer.core.TyperCommand]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_verbs_are_those_of_the_contract() -> None:
    assert tuple(_commands()) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, prune: Callable) -> None:
    result = prune(verb, "--help")
    assert result.code == 0
    assert f"prune {verb}" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_has_help_with_an_example(verb: str) -> None:
    for parameter in _commands()[verb].params:
        if parameter.name == "help":
            continue
        assert parameter.help, parameter.name
        assert "Example: " in parameter.help, parameter.name
        flags = [name for name in parameter.opts if name.startswith("--")]
        assert not flags or any(name in parameter.help.partition("Example: ")[2] for name in flags), parameter.name


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_lists_or_measures_has_json(verb: str) -> None:
    assert "--json" in [name for parameter in _commands()[verb].params for name in parameter.opts]


def test_help_names_the_verbs_and_the_exit_codes(prune: Callable) -> None:
    result = prune("--help")
    assert result.code == 0
    assert all(verb in result.out for verb in VERBS)
    assert "Exit codes" in result.out


def test_no_argument_at_all_is_a_call_for_help(prune: Callable) -> None:
    assert prune().out == prune("--help").out


def test_version(prune: Callable) -> None:
    result = prune("--version")
    assert result.code == 0
    assert result.out.startswith("prune ")
    assert "prune-core" in result.out


def test_nothing_heavy_is_imported_before_a_verb_needs_it() -> None:
    code = (
        "import sys\nfrom prune_cli.app import main\n"
        f"for arguments in {LIGHT_COMMANDS!r}:\n    main(arguments)\n"
        f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not loaded, (arguments, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_needs_neither_pydantic_nor_the_core() -> None:
    code = (
        "import sys\nfrom prune_cli.app import main\nmain(['--help'])\n"
        "assert not {'pydantic', 'yaml', 'pluggy', 'prune_core'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_console_script_is_installed(script: Callable) -> None:
    result = script("--help")
    assert result.code == 0
    assert "strategies" in result.out


def test_no_bars_where_the_error_stream_is_no_terminal():
    """Each picture of a bar would be a line of a log file."""
    code = (
        "from prune_cli.app import main; main(['--version'])\n"
        "from datasets.utils.tqdm import are_progress_bars_disabled as off; print(off())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
