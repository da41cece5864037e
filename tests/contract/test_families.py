"""Every family that core describes passes the contract that we publish; what docs/families.md ticks is tried here.

Run as a module it tries everything and records it in docs/families.json, of which docs/generate.py makes the table.
"""

import json
import sys

from transformers import PreTrainedModel

from prune_core.builtin import prune_architectures
from prune_core.testing.capabilities import CAPABILITIES, Outcome
from prune_core.testing.contract import FamilyContract
from prune_core.testing.head_classes import head_classes
from prune_core.testing.tiny import FAMILIES, tiny_config, tiny_model
from tests.meta.tree import ROOT

RECORD = ROOT / "docs" / "families.json"
RECORDED: dict[str, dict[str, Outcome]] = json.loads(RECORD.read_text(encoding="utf-8"))


class TestFamilies(FamilyContract):
    families = FAMILIES
    missing = {
        family: {what: found for what, found in outcomes.items() if isinstance(found, str)}
        for family, outcomes in RECORDED.items()
    }
    large = ("t5", "flan-t5", "gemma2", "gemma3_text", "gemma3")

    def model(self, family: str, layers: int) -> PreTrainedModel:
        return tiny_model(family, layers=layers)


def test_all_that_was_tried_is_recorded() -> None:
    assert list(RECORDED) == list(FAMILIES)
    for family, outcomes in RECORDED.items():
        assert list(outcomes) == [*CAPABILITIES, *head_classes(tiny_config(family))], f"{family}: make families"


def test_every_model_type_that_we_describe_is_tried() -> None:
    described = {name for architecture in prune_architectures() for name in architecture.model_types}
    assert described == {tiny_config(family).model_type for family in FAMILIES}


def record() -> dict[str, dict[str, Outcome]]:
    """What is done and what is not, tried anew."""
    contract, found = TestFamilies(), {}
    for family in FAMILIES:
        done = {name: contract.outcome(family, name) for name in CAPABILITIES}
        classes = head_classes(tiny_config(family))
        found[family] = done | {name: contract.class_outcome(family, cls) for name, cls in classes.items()}
    return found


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    sys.exit()
