"""How a benchmark says what it found.

python benchmarks/report.py FILE COMMAND ...     # what COMMAND prints as JSON is kept in FILE
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from prune_core.files import write_text
from prune_core.measure import Ratio, machine


def figure(name: str, ratio: Ratio) -> dict[str, object]:
    """A ratio under that name, and its interval."""
    return {name: round(ratio.value, 3), "interval": [round(ratio.low, 3), round(ratio.high, 3)]}


def report(found: dict[str, object], output: Path | None, device: str | torch.device = "cpu") -> None:
    """Print it as JSON, with the machine that it was measured on, and write it to `output` where one is given."""
    text = json.dumps({**found, "machine": machine(torch.device(device)).__dict__}, indent=2)
    print(text)
    if output:
        write_text(output, text + "\n")


def keep(output: Path, *command: str) -> None:
    """Run a command that prints JSON, and write that; where it fails, or is interrupted, `output` stays as it was."""
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    json.loads(text)
    write_text(output, text)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), *sys.argv[2:])
