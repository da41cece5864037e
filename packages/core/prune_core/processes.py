"""Which of the processes of one run this is."""

import os


def is_main() -> bool:
    """Whether this process speaks for the run: the only one, or the first that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"
