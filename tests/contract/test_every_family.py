"""All four strategies on every family, in anyone's own loop: short trainings on random inputs, speech among them."""

from fnmatch import fnmatchcase

import pytest

from prune_block.config import BlockConfig
from prune_block.strategy import BlockPruning
from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.testing.loop import Loop
from prune_core.testing.tiny import FAMILIES, tiny_inputs, tiny_model
from prune_core.verification.verify import largest_difference, outputs
from prune_hybrid.config import HybridConfig
from prune_hybrid.strategy import Hybrid
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured
from prune_unstructured.config import UnstructuredConfig
from prune_unstructured.strategy import Unstructured
from tests.core.loops import stored_in

STEPS = 4
ATOL = 2e-5
SHARES = (0.7, 0.4)
"""Densities of the two stacks of a family that has two, encoder and decoder or texts and images."""
STRATEGIES = {
    "structured": lambda **parts: Structured(StructuredConfig(density=0.5, **parts)),
    "hybrid": lambda **parts: Hybrid(HybridConfig(density=0.5, attention_block=(8, 8), **parts)),
    "block": lambda **parts: BlockPruning(BlockConfig(density=0.5, attention_block=(8, 8), ffn_block=(4, 8), **parts)),
    "unstructured": lambda **parts: Unstructured(UnstructuredConfig(density=0.3, **parts)),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_trains_finishes_and_compacts(family, name):
    dense = tiny_model(family)
    stacks = structure_of(dense).stacks
    parts = dict(zip((f"{stack.name}.*" for stack in stacks), SHARES, strict=True)) if len(stacks) > 1 else {}
    loop = Loop(tiny_model(family), STRATEGIES[name](part_densities=parts), STEPS).train()
    masked = answers(loop.model)
    masks = loop.strategy.finish()
    assert largest_difference(answers(loop.model), masked) <= ATOL
    compaction = compact(loop.model, masks)
    assert largest_difference(answers(compaction.model), masked) <= ATOL
    for part, share in {"*": loop.strategy.target, **parts}.items():
        assert stored_in(dense, masks, part[:-1]) == pytest.approx(share, abs=0.06), part


def answers(model):
    inputs = {key: value for key, value in tiny_inputs(model, batch=8).items() if key != "labels"}
    return outputs(model, [inputs])


@pytest.mark.parametrize("excluded", ["encoder.*", "decoder.*", "*.cross_attention"])
def test_a_part_may_be_left_alone(excluded):
    strategy = Structured(StructuredConfig(density=0.7, exclude=(excluded,)))
    loop = Loop(tiny_model("bart"), strategy, STEPS).train()
    kept = {unit.key: unit for unit in compact(loop.model, loop.strategy.finish()).units}
    alone = set(loop.structure.keys()) - set(loop.structure.without([excluded]).keys())
    assert alone == {key for key in kept if fnmatchcase(key, excluded)}
    assert all(len(kept[key].kept) == kept[key].total for key in alone)
    assert any(len(unit.kept) < unit.total for unit in kept.values())
