"""How a benchmark says what it found."""

import json
from pathlib import Path

import torch

from prune_core.measure import machine


def report(found: dict[str, object], output: Path | None, device: str | torch.device = "cpu") -> None:
    """Print it as JSON, with the machine that it was measured on, and write it to `output` where one is given."""
    text = json.dumps({**found, "machine": machine(torch.device(device)).__dict__}, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n")
