"""How long `prune --help` takes against a bare typer app with as many verbs.

    python benchmarks/help_time.py [--rounds 25] [--output docs/results/help_time.json]

Both run as fresh processes of this interpreter, interleaved; what counts is the median of the paired ratios.
"""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from report import figure, report

from prune_cli.verbs import app
from prune_core.measure import paired_ratio

BARE = "import typer\n\napp = typer.Typer()\n\n{commands}\napp()\n"
COMMAND = '@app.command("{verb}")\ndef {verb}_() -> None:\n    """What {verb} does, in one line."""\n\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    report(measure(arguments.rounds), arguments.output)


def measure(rounds: int) -> dict[str, object]:
    """Median seconds of both and the median ratio, over `rounds` pairs after one that warms the disk cache."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {"prune": _prune(), "bare": _bare(Path(folder))}
        pairs = [_pair(commands, first=index % 2) for index in range(rounds + 1)][1:]
    seconds = {name: [pair[name] for pair in pairs] for name in commands}
    return {
        "what": "prune --help against a bare typer app with as many verbs",
        "rounds": rounds,
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        **figure("ratio", paired_ratio(seconds["prune"], seconds["bare"])),
    }


def _prune() -> list[str]:
    """The installed console script."""
    script = Path(sysconfig.get_path("scripts")) / "prune"
    if not script.is_file():
        raise SystemExit(f"{script} is missing: pip install -e packages/cli first")
    return [str(script), "--help"]


def _bare(folder: Path) -> list[str]:
    script = folder / "bare.py"
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    script.write_text(BARE.format(commands="".join(COMMAND.format(verb=verb) for verb in verbs)), encoding="utf-8")
    return [sys.executable, str(script), "--help"]


def _pair(commands: dict[str, list[str]], first: int) -> dict[str, float]:
    order = list(commands.items())
    return {name: _seconds(command) for name, command in (order if first else reversed(order))}


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
