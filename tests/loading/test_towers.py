"""CLIP's towers: each loads by itself from the folder of both, dense or compact, and goes on from there."""

import pytest
import torch
from transformers import (
    AutoModel,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from prune_core.compaction import compact
from prune_core.folders.loading import structure_of
from prune_core.folders.saving import save_compact
from prune_core.testing.sample_masks import random_masks, uneven, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model

TEXT = (CLIPTextModel, CLIPTextModelWithProjection)
VISION = (CLIPVisionModel, CLIPVisionModelWithProjection)


@pytest.fixture(scope="module", params=["dense", "compact", "sparse"])
def folder(request, tmp_path_factory):
    """A CLIP, and the folder that it was saved to."""
    path, model = tmp_path_factory.mktemp(request.param), tiny_model("clip", projection_dim=512)
    if request.param == "dense":
        model.save_pretrained(path)
        return model, path
    kept = uneven(model)
    masks = unit_masks(model, lambda unit: kept[unit.key])
    compaction = compact(model, masks if request.param == "compact" else random_masks(model, "element", sparse=True))
    save_compact(compaction, path)
    return compaction.model, path


def embedding(model, **inputs):
    answer = model.eval()(**inputs)
    name = next(name for name in ("text_embeds", "image_embeds", "pooler_output") if name in answer)
    return answer[name]


@torch.no_grad()
@pytest.mark.parametrize("tower", [*TEXT, *VISION])
def test_a_tower_alone(tower, folder, tmp_path):
    both, path = folder
    inputs = tiny_inputs(both)
    names = ("input_ids", "attention_mask") if tower in TEXT else ("pixel_values",)
    inputs = {name: inputs[name] for name in names}
    side = both.text_model if tower in TEXT else both.vision_model
    projection = both.text_projection if tower in TEXT else both.visual_projection
    expected = side.eval()(**inputs).pooler_output
    expected = projection(expected) if tower.__name__.endswith("Projection") else expected
    model = tower.from_pretrained(path)
    torch.testing.assert_close(embedding(model, **inputs), expected)
    assert structure_of(model).sizes().items() <= structure_of(both).sizes().items()
    model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(embedding(tower.from_pretrained(tmp_path / "again"), **inputs), expected)


@torch.no_grad()
def test_both_and_a_classifier_of_images(folder, tmp_path):
    both, path = folder
    inputs = tiny_inputs(both)
    expected = both.eval()(**inputs).logits_per_image
    again = CLIPModel.from_pretrained(path)
    again.save_pretrained(tmp_path / "again")
    for model in (again, CLIPModel.from_pretrained(tmp_path / "again")):
        torch.testing.assert_close(model.eval()(**inputs).logits_per_image, expected)
    classifier = CLIPForImageClassification.from_pretrained(path, num_labels=3)
    hidden = classifier.vision_model.eval()(pixel_values=inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(hidden, both.vision_model.eval()(pixel_values=inputs["pixel_values"]).pooler_output)


@torch.no_grad()
def test_the_text_part_of_a_reader_of_images_alone(tmp_path):
    """The family of its own type calls its layers otherwise."""
    model = tiny_model("gemma3")
    kept = uneven(model)
    smaller = compact(model, unit_masks(model, lambda unit: kept[unit.key])).model.eval()
    part = smaller.model.language_model
    part.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    tokens = tiny_inputs(smaller)["input_ids"]
    torch.testing.assert_close(again(tokens).last_hidden_state, part(tokens).last_hidden_state)
