"""The processes that torchrun or accelerate started for one run: what one of them does, and what all agree on.

A run of one process is the rule, and then none of this does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from prune_core.distributed.processes import is_main, rank
from prune_core.errors import ElsewhereError, RecipeError, RunError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that measures or compacts; one that fails ends the others at once."""

_FSDP = "ACCELERATE_USE_FSDP"
_OTHER_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
_SHARDED_BY = "accelerate launch --use_fsdp --fsdp_version 2, or with torchrun and training.sharded: true"
_ENDED = ("gloo", "closed by peer", "reset by peer", "remote process has exited")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """The processes of this run, joined in the meantime; `device` is cpu or cuda.

    ElsewhereError where another process ended with an error.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield
        return
    _join(device)
    try:
        yield
    except RuntimeError as error:
        if ended_elsewhere(error):
            raise ElsewhereError("another process of this run has ended: its own message says why") from error
        raise
    _in_main_memory.cache_clear()
    dist.destroy_process_group()  # not after an error: it would wait for the others


def ended_elsewhere(error: Exception) -> bool:
    """Whether an error only says that another process has ended."""
    signs = (sign in str(error).lower() for sign in _ENDED)
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(signs))


def launched_sharded() -> bool:
    """Whether `accelerate launch` asks for FSDP2; RecipeError where it asks for another engine that divides weights.

    The run takes the request over, so accelerate is not asked any more: it would divide every model in its own way.
    """
    for name in _OTHER_ENGINES:
        if _is_set(name):
            raise RecipeError(f"{name}: weights are divided by FSDP2 alone; start with {_SHARDED_BY}")
    if not _is_set(_FSDP):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise RecipeError(f"{_FSDP}: accelerate asks for version {version} of FSDP; start with {_SHARDED_BY}")
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise RecipeError("FSDP_OFFLOAD_PARAMS: weights stay on the devices while they train; leave the offload out")
    del os.environ[_FSDP]
    return True


def processes() -> int:
    """How many processes do this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Go on when all have come here."""
    if processes() > 1:
        dist.barrier()


def agreed(value: T) -> T:
    """The main process's value, in all; it is pickled."""
    if processes() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box)
    return box[0]  # type: ignore[return-value]


def on_main(work: Callable[[], T]) -> T:
    """What `work` returns in the main process, in all; an error there is an ElsewhereError in the others."""
    if processes() == 1:
        return work()
    found, error = None, None
    if is_main():
        try:
            found = work()
        except Exception as failure:
            error = failure
    failed = agreed(error is not None)
    if error is not None:
        raise error
    if failed:
        raise ElsewhereError("the main process of this run failed: its own message says why")
    return agreed(found)  # type: ignore[return-value]


@contextmanager
def main_first() -> Iterator[None]:
    """The main process does what follows before the others: they find what it has put on disk."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def any_of(value: bool) -> bool:
    """Whether it holds in any process."""
    return totals([int(value)])[0] > 0


def totals(counts: Sequence[int]) -> list[int]:
    """The sums of all processes' counts, each by its place; no process waits for its device."""
    if processes() == 1:
        return list(counts)
    box = torch.tensor(counts)
    dist.all_reduce(box, group=_in_main_memory())
    return [int(count) for count in box.tolist()]


@cache
def _in_main_memory() -> dist.ProcessGroup:
    """All processes, joined for what is in the main memory: NCCL knows that of the devices alone. All must ask."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
    return group


def check_shared(folder: Path) -> None:
    """RunError where a process does not see the folder that the main one has made: it resumes from there."""
    wait()
    if not folder.is_dir():
        raise RunError(
            f"process {rank()} on {os.uname().nodename} finds no folder {folder}, which the main process has made: "
            "the folder of a run must lie on a disk that all machines share; choose another --output"
        )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"


def _join(device: str) -> None:
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=PATIENCE)
