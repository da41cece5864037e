"""Which of the processes of one run this is."""

import os


def rank() -> int:
    """Its number among the processes that torchrun or accelerate started, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process speaks for the run: the only one, or the first of several."""
    return rank() == 0
