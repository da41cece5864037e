"""One thread, and the same examples at every run."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("prune", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("prune")
