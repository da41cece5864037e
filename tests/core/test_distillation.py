"""What a student imitates: layers that belong together, hidden states and attention maps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_core.compaction.resize import resize
from prune_core.distillation.teacher import Teacher, for_student, showing_attention
from prune_core.errors import RecipeError
from prune_core.folders.loading import structure_of
from prune_core.kit.distillation import attention_loss, hidden_loss, layer_map
from prune_core.recipe import DistillationSection
from prune_core.testing.tiny import tiny_inputs, tiny_model

TASK: Any = SimpleNamespace(
    model_inputs=lambda batch: {name: value for name, value in batch.items() if name != "labels"},
    taught=lambda outputs, batch: {"logits": outputs.logits},
    counted=lambda batch: None,
    loss=lambda outputs, batch: outputs.loss,
    imitation="distribution",
)


class TestLayerMap:
    @given(st.integers(1, 48), st.integers(1, 48))
    def test_it_goes_from_the_first_to_the_last_and_never_back(self, student: int, teacher: int):
        found = layer_map(student, teacher)
        assert list(found) == list(range(student + 1))
        assert (found[0], found[student]) == (0, teacher)
        taught = list(found.values())
        assert taught == sorted(taught)
        assert all(abs(found[layer] / teacher - layer / student) <= 0.5 / teacher + 1e-9 for layer in found)

    def test_equal_depths_are_taught_layer_by_layer(self):
        assert layer_map(6, 6) == {layer: layer for layer in range(7)}

    def test_published_maps(self):
        """TinyBERT's 4 layers learn from every third of 12, DistilBERT's 6 from every second."""
        assert layer_map(4, 12) == {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}
        assert layer_map(6, 12)[5] == 10

    def test_a_chosen_map_stands(self):
        assert layer_map(2, 12, {1: 5, 2: 12}) == {1: 5, 2: 12}

    @pytest.mark.parametrize(("chosen", "whose", "last"), [({3: 1}, "student", 2), ({1: 13}, "teacher", 12)])
    def test_a_layer_that_is_not_there(self, chosen: dict[int, int], whose: str, last: int):
        with pytest.raises(RecipeError, match=rf"the {whose} has no layer \d+; its layers are 1 to {last}, and 0"):
            layer_map(2, 12, chosen)


def masked_mean(errors: np.ndarray, mask: np.ndarray) -> float:
    return float(sum(e for row, keep in zip(errors, mask, strict=True) for e, k in zip(row, keep, strict=True) if k))


def test_losses_of_layers_agree_with_plain_sums():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for loss, reduce in ((hidden_loss, np.mean), (attention_loss, np.sum)):
        mine, theirs = ([torch.rand(2, 5, 7, generator=generator) for _ in range(3)] for _ in range(2))
        squares = [((a - b) ** 2).numpy() for a, b in zip(mine, theirs, strict=True)]
        expected = np.mean([masked_mean(reduce(one, axis=-1), mask.numpy()) / 8 for one in squares])
        assert float(loss(mine, theirs, mask)) == pytest.approx(expected, rel=1e-5)


def test_the_mask_of_several_choices_an_example_counts():
    """Multiple choice: the mask is [examples, choices, tokens], the states [examples * choices, tokens, features]."""
    mine, theirs = torch.zeros(4, 3, 2), torch.ones(4, 3, 2)
    theirs[:, 2] = 100
    mask = torch.tensor([1, 1, 0]).expand(2, 2, 3)
    assert float(hidden_loss([mine], [theirs], mask)) == 1


class TestTeacher:
    def loss(self, student: Any, teacher: Any, **section: Any) -> float:
        weights = {"cross_entropy": 0.0, "logits": 0.0, "hidden_states": 0.0} | section
        batch = tiny_inputs(student)
        made = Teacher(teacher, TASK, DistillationSection(**weights))
        with showing_attention(student, made), torch.no_grad():
            return float(made.loss(student(**batch, **made.wanted), batch))

    @pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
    def test_attention_maps_of_other_numbers_of_heads_and_layers(self, family: str):
        student, teacher = tiny_model(family), tiny_model(family, seed=1, heads=8, layers=4)
        found = self.loss(student, teacher, attention_maps=2.0)
        batch = tiny_inputs(student)
        mask = batch.get("attention_mask", torch.ones(4, 5)).numpy()
        maps = []
        for model in (student, teacher):
            model.set_attn_implementation("eager")
            with torch.no_grad():
                maps.append([one.mean(1).numpy() for one in model(**batch, output_attentions=True).attentions])
        errors = [((maps[0][mine] - maps[1][theirs]) ** 2).sum(-1) for mine, theirs in ((0, 1), (1, 3))]
        expected = 2 * np.mean([masked_mean(error, mask) / mask.sum() for error in errors])
        assert found == pytest.approx(expected, rel=1e-5)

    def test_hidden_states_by_a_chosen_map(self):
        student, teacher = tiny_model("vit"), tiny_model("vit", seed=1, layers=4)
        found = self.loss(student, teacher, hidden_states=3.0, layers={0: 0, 1: 4})
        batch = tiny_inputs(student)
        with torch.no_grad():
            states = [model(**batch, output_hidden_states=True).hidden_states for model in (student, teacher)]
        errors = [float((states[0][mine] - states[1][theirs]).square().mean()) for mine, theirs in ((0, 0), (1, 4))]
        assert found == pytest.approx(3 * np.mean(errors), rel=1e-5)

    def test_a_layer_whose_units_are_gone_is_still_taught(self):
        """Stubs put out hidden states as before, so the map holds; maps of attention that is gone cannot be shown."""
        student, teacher = tiny_model("bert"), tiny_model("bert")
        unit = structure_of(student).unit("layer.0.attention")
        resize(student, unit, [])
        section = for_student(DistillationSection(attention_maps=1.0), teacher, student)
        assert (section.hidden_states, section.attention_maps) == (0.5, 0.0)
        batch = tiny_inputs(student)
        states = [model(**batch, output_hidden_states=True).hidden_states for model in (student, teacher)]
        assert [len(one) for one in states] == [3, 3]
        expected = hidden_loss(*states, batch["attention_mask"])
        assert self.loss(student, teacher, hidden_states=1.0) == pytest.approx(float(expected), rel=1e-5)

    def test_the_student_attends_as_before_afterwards(self):
        student = tiny_model("bert")
        before = student.config._attn_implementation
        self.loss(student, tiny_model("bert"), attention_maps=1.0)
        assert student.config._attn_implementation == before != "eager"
