"""One quiet thread, here and in every process that a test starts, and the same hypothesis examples at every run."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("prune", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("prune")
