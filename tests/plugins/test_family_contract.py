"""The contract of families, run on a family of somebody else: it passes a right layout and finds a wrong one."""

import ast
import re
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from prune_core.testing.capabilities import CAPABILITIES
from prune_core.testing.contract import FamilyContract
from prune_core.testing.tiny import random_model, tiny_config
from tests.meta.tree import ROOT

Add = Callable[..., None]

SOURCE = """
from dataclasses import replace
from prune_core.architectures.gpt2 import GPT2
ATTENTION = replace(GPT2.stacks[0].attention["attention"], by_head={})
STACK = replace(GPT2.stacks[0], attention={{"attention": ATTENTION}}{})
@hookimpl
def prune_architectures():
    return [replace(GPT2, name="mine", model_types=("mine",), stacks=(STACK,))]
"""
RIGHT, WRONG, SIZELESS = SOURCE.format(False, ""), SOURCE.format(True, ""), SOURCE.format(False, ", sizes=None")
"""The first reads all queries first in the fused projection; the second those of the first head, and so on."""


class MyConfig(GPT2Config):
    model_type = "mine"


class MyForCausalLM(GPT2LMHeadModel):
    config_class = MyConfig


class Mine(FamilyContract):
    families = ("mine",)
    missing: ClassVar = {"mine": {"uniform heads": "derives the size of a head"}}

    def model(self, family: str, layers: int) -> PreTrainedModel:
        fields = tiny_config("gpt2", layers=layers).to_dict()
        return random_model(partial(MyForCausalLM, MyConfig(**fields | {"model_type": family})))


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    AutoConfig.register("mine", MyConfig)
    AutoModelForCausalLM.register(MyConfig, MyForCausalLM)


def test_a_right_layout_passes(add: Add) -> None:
    add("prune-mine", RIGHT)
    contract = Mine()
    for capability in CAPABILITIES:
        contract.test_it_is_done_or_refused("mine", capability)
    contract.test_every_class_is_masked_compact_and_reloaded("mine")
    contract.test_nothing_left_anywhere("mine")


def test_a_layout_without_sizes_misses_what_the_guide_says(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    (listed,) = re.findall(r"\n    missing = (\{.*?\n    \})\n", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL)
    add("prune-mine", SIZELESS)
    monkeypatch.setattr(Mine, "missing", ast.literal_eval(listed))
    for capability in CAPABILITIES:
        Mine().test_it_is_done_or_refused("mine", capability)


def test_a_wrong_layout_fails(add: Add) -> None:
    """All shapes fit, and the compact model is wrong without a word."""
    add("prune-mine", WRONG)
    with pytest.raises(AssertionError, match=r"the compact and the masked MyForCausalLM in .* differ by"):
        Mine().test_it_is_done_or_refused("mine", "heads")


def test_what_is_done_and_what_is_not_must_be_said(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("prune-mine", RIGHT)
    monkeypatch.setattr(Mine, "missing", {"mine": {"FFN": "nobody knows"}})
    with pytest.raises(AssertionError, match="done, and was said to be missing"):
        Mine().test_it_is_done_or_refused("mine", "FFN")
    with pytest.raises(AssertionError, match="mine, uniform heads: its class derives"):
        Mine().test_it_is_done_or_refused("mine", "uniform heads")
