"""All four strategies on every family with a decoder or fused projections: short trainings on random inputs."""

from fnmatch import fnmatchcase

import pytest
import torch

from prune_block.config import BlockConfig
from prune_block.strategy import BlockPruning
from prune_core.compaction import compact
from prune_core.testing.loop import Loop, logits
from prune_core.testing.tiny import GENERATING, tiny_model
from prune_hybrid.config import HybridConfig
from prune_hybrid.strategy import Hybrid
from prune_structured.config import StructuredConfig
from prune_structured.strategy import Structured
from prune_unstructured.config import UnstructuredConfig
from prune_unstructured.strategy import Unstructured

STEPS = 4
STRATEGIES = {
    "structured": lambda: Structured(StructuredConfig(density=0.5)),
    "hybrid": lambda: Hybrid(HybridConfig(density=0.5, attention_block=(8, 8))),
    "block": lambda: BlockPruning(BlockConfig(density=0.5, attention_block=(8, 8), ffn_block=(4, 8))),
    "unstructured": lambda: Unstructured(UnstructuredConfig(density=0.3)),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("family", [*GENERATING, "modernbert", "deberta"])
def test_trains_finishes_and_compacts(family, name):
    loop = Loop(tiny_model(family), STRATEGIES[name](), STEPS).train()
    masked = logits(loop.model)
    masks = loop.strategy.finish()
    torch.testing.assert_close(logits(loop.model), masked, atol=2e-5, rtol=0)
    compaction = compact(loop.model, masks)
    torch.testing.assert_close(logits(compaction.model), masked, atol=2e-5, rtol=0)
    assert compaction.density == pytest.approx(loop.strategy.config.density, abs=0.06)


@pytest.mark.parametrize("excluded", ["encoder.*", "decoder.*", "*.cross_attention"])
def test_a_part_may_be_left_alone(excluded):
    strategy = Structured(StructuredConfig(density=0.7, exclude=(excluded,)))
    loop = Loop(tiny_model("bart"), strategy, STEPS).train()
    kept = {unit.key: unit for unit in compact(loop.model, loop.strategy.finish()).units}
    alone = set(loop.structure.keys()) - set(loop.structure.without([excluded]).keys())
    assert alone == {key for key in kept if fnmatchcase(key, excluded)}
    assert all(len(kept[key].kept) == kept[key].total for key in alone)
    assert any(len(unit.kept) < unit.total for unit in kept.values())
