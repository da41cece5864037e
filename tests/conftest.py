"""One quiet thread, here and in every process that a test starts, and the same hypothesis examples at every run.

Tests that need CUDA are skipped where there is none.
"""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("prune", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("prune")


@pytest.fixture(autouse=True)
def _logs_are_heard() -> Iterator[None]:
    """A verb keeps the library's log from the root logger, where caplog listens."""
    yield
    logging.getLogger("prune_core").propagate = True


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that are not of CUDA run on the CPU, whatever the machine has."""
    if not any(item.get_closest_marker("gpu") for item in session.items):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
