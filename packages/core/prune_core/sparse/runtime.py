"""Sparse forms for those who measure."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from prune_core.measure.runtimes import Batches, Runs
from prune_core.sparse.choice import DENSE, use_sparse_forms

logger = logging.getLogger(__name__)


@contextmanager
def without_zeros(model: PreTrainedModel, batches: Batches, folder: Path) -> Iterator[Runs]:
    """A twin of the model, of the same parameters, each of whose linears skips zeros where that is faster here."""
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    forms = use_sparse_forms(twin, batches[0])
    taken = [one.layer for one in forms if one.form != DENSE]
    logger.info("%d of %d linears skip their zeros: %s", len(taken), len(forms), ", ".join(taken) or "none")
    yield twin
