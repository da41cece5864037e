"""Sparse forms for those who measure."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from prune_core.measure.runtimes import Batches, Formed, Runs
from prune_core.sparse.choice import use_sparse_forms


@contextmanager
def without_zeros(model: PreTrainedModel, batches: Batches, folder: Path) -> Iterator[Runs]:
    """A twin of the model, of the same parameters, each of whose linears skips zeros where that is faster here for the
    batch of middle size.
    """
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    ordered = sorted(batches, key=lambda batch: batch[model.main_input_name].numel())
    yield Formed(twin, use_sparse_forms(twin, ordered[len(ordered) // 2]))
