"""Linears that skip their zeros, only where a measurement on this device shows that it pays."""

from prune_core.measure import LayerForm
from prune_core.sparse.choice import use_sparse_forms
from prune_core.sparse.forms import Form, make_dense

__all__ = ["Form", "LayerForm", "make_dense", "use_sparse_forms"]
