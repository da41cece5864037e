"""Whatever the masks: any mixture of granularities, with or without biases, compact = masked = reloaded."""

import copy
import tempfile
from itertools import cycle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.granularity import NM, Block, Column, Element, Head, Neuron, Row, RowsColumns
from prune_core.linears import linear, output_axis
from prune_core.masks import Mask, MaskSet, bias_mask
from prune_core.testing.tiny import tiny_inputs, tiny_model

ATOL = 1e-9
"""In float64, where any difference that is not rounding shows."""

GRANULARITIES = (
    Element(),
    Block(4, 8),
    Block(8, 2),
    Row(1, "rows"),
    Row(4, "rows"),
    Column(1, "columns"),
    Head(8, "rows"),
    Head(8, "columns"),
    Neuron(1, "rows"),
    Neuron(1, "columns"),
    RowsColumns(),
    NM(2, 4),
)

PLAN = st.lists(
    st.tuples(
        st.sampled_from((None, *GRANULARITIES)),
        st.sampled_from((0.0, 0.02, 0.3, 0.8, 1.0)),
        st.booleans(),
    ),
    min_size=12,
    max_size=12,
)
FAMILY = st.sampled_from(("bert", "distilbert", "vit", "deit", "roberta", "electra", "bart", "opt", "gpt2"))
QUIET = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def masks_of(model, plan, seed, *, sparse):
    """Masks of each prunable linear by its entry of the plan, which starts again at its end.

    An entry: granularity, share that survives, bias masked too.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, (granularity, density, with_bias) in zip(structure_of(model).linears(), cycle(plan)):
        layer = linear(model, name)
        shape = tuple(layer.weight.shape)
        if granularity is None:
            continue
        values = torch.rand(granularity.score_shape(shape), generator=generator) < density
        masks[f"{name}.weight"] = Mask(granularity, values, shape)
        if with_bias:
            masks[f"{name}.bias"] = bias_mask(granularity, values, shape, output_axis(layer))
    return MaskSet(masks, sparse=sparse)


def logits(model):
    inputs = {
        name: value.double() if value.is_floating_point() else value for name, value in tiny_inputs(model).items()
    }
    with torch.no_grad():
        return model.eval()(**inputs).logits


def case(family, plan, seed, sparse):
    model = tiny_model(family, seed=seed % 7).double()
    masks = masks_of(model, plan, seed, sparse=sparse)
    masked = copy.deepcopy(model)
    masks.bake(masked)
    return model, masks, masked


@QUIET
@given(family=FAMILY, plan=PLAN, seed=st.integers(0, 10_000), sparse=st.booleans())
def test_compact_is_masked(family, plan, seed, sparse):
    model, masks, masked = case(family, plan, seed, sparse)
    compaction = compact(model, masks)
    torch.testing.assert_close(logits(compaction.model), logits(masked), atol=ATOL, rtol=0)
    assert all(tensor.numel() for tensor in compaction.model.state_dict().values())
    assert 0 <= compaction.density <= 1


@settings(QUIET, max_examples=10)
@given(family=FAMILY, plan=PLAN, seed=st.integers(0, 10_000), sparse=st.booleans())
def test_reloaded_is_compact(family, plan, seed, sparse):
    from prune_core.folders.saving import save_compact

    model, masks, _ = case(family, plan, seed, sparse)
    compaction = compact(model, masks)
    with tempfile.TemporaryDirectory() as folder:
        save_compact(compaction, f"{folder}/model")
        again = type(model).from_pretrained(f"{folder}/model", dtype=torch.float64)
    assert torch.equal(logits(again), logits(compaction.model))
    assert again.state_dict().keys() == compaction.model.state_dict().keys()


@settings(QUIET, max_examples=12)
@given(family=FAMILY, plan=PLAN, seed=st.integers(0, 10_000))
def test_what_remains_under_sparse_masks_is_counted_weight_by_weight(family, plan, seed):
    model, masks, masked = case(family, plan, seed, True)
    compaction = compact(model, masks)
    structure = structure_of(compaction.model)
    counted = sum(int((weight != 0).sum()) for _, weight in structure.weights(compaction.model))
    assert compaction.density == pytest.approx(counted / structure_of(model).size(model))
    assert counted <= sum(int((weight != 0).sum()) for _, weight in structure_of(masked).weights(masked))
