"""What other libraries say, held back for a while."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_level(name: str | None, level: int) -> Iterator[None]:
    """A logger, the root one for None, says nothing below this level meanwhile."""
    talker = logging.getLogger(name)
    before = talker.level
    talker.setLevel(level)
    try:
        yield
    finally:
        talker.setLevel(before)
