"""Progress bars give the terminal back, in a real process under a real (pseudo) terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"

SCRIPT = """
import signal, sys, time
from pathlib import Path
from types import SimpleNamespace

from datasets import Dataset

from prune_core.errors import DataError
from prune_core.training.progress import progress_bar
from prune_core.recipe import TrainingSection
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.training import arguments, make_trainer, train

folder = Path(sys.argv[1])
inputs = tiny_inputs(tiny_model("vit"))
section = TrainingSection(max_steps=3, batch_size=4, eval_batch_size=4, save_steps=10)

def fail():
    raise DataError("no image in row 7")

def interrupt():
    signal.raise_signal(signal.SIGINT)  # to this thread: a busy machine may hand it to the bar's first

def predict(model, batch):
    return model(**batch).logits, None

def attempt(name, at, cause, work):
    calls = []
    def collate(rows):
        calls.append(rows)
        if len(calls) == at:
            time.sleep(0.2)  # two redraws
            cause()
        return dict(inputs)
    task = SimpleNamespace(
        counted=lambda batch: None,
        collate=collate, metrics=None, predict=predict, metric="accuracy", greater_is_better=True,
        forward=lambda model, batch, **options: model(**batch, **options), loss=lambda outputs, batch: outputs.loss
    )
    rows = Dataset.from_dict({"row": list(range(12))})
    trainer = make_trainer(tiny_model("vit"), task, arguments(section, folder / name, "cpu", text=False), rows)
    print(f"== {name}", flush=True)
    try:
        work(trainer, rows)
    except (DataError, KeyboardInterrupt) as error:
        print("error:", type(error).__name__, file=sys.stderr, flush=True)
    time.sleep(0.3)  # a bar that still lives would redraw itself now

def training(trainer, rows):
    train(trainer, folder / "metrics.jsonl", "prune")

def evaluation(trainer, rows):
    with progress_bar(trainer, "evaluate"):
        trainer.predict(rows)

attempt("whole", 0, None, training)
attempt("training fails", 3, fail, training)
attempt("training is interrupted", 3, interrupt, training)
attempt("evaluation fails", 3, fail, evaluation)
"""


def _seen(command: list[str]) -> bytes:
    """All that a command writes to a terminal."""
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    seen = bytearray()
    try:
        while part := os.read(screen, 4096):
            seen += part
    except OSError:  # Linux says so when the last one at the terminal has gone
        pass
    os.close(screen)
    assert process.wait() == 0, seen.decode()
    return bytes(seen)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a terminal got of each attempt."""
    folder: Path = tmp_path_factory.mktemp("bars")
    seen = _seen([sys.executable, "-c", SCRIPT, str(folder)])
    names = re.split(rb"== (.*)\r\n", seen)[1:]
    return {name.decode(): screen for name, screen in zip(names[::2], names[1::2], strict=True)}


@pytest.mark.parametrize("attempt", ["whole", "training fails", "training is interrupted", "evaluation fails"])
def test_the_cursor_is_given_back(screens: dict[str, bytes], attempt: str):
    assert HIDE in screens[attempt], "there was no bar"
    assert screens[attempt].rfind(SHOW) > screens[attempt].rfind(HIDE)


@pytest.mark.parametrize("attempt", ["training fails", "training is interrupted", "evaluation fails"])
def test_the_error_is_the_last_line(screens: dict[str, bytes], attempt: str):
    assert re.search(rb"\n\x1b\[\?25herror: (DataError|KeyboardInterrupt)\r\n$", screens[attempt])
