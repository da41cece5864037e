"""A few more neurons, so that sizes are multiples of a number: the same function, and only where it pays."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_core.compaction import alignment, compact
from prune_core.compaction.alignment import Alignment, Size, align, fastest, multiple
from prune_core.compaction.dense import DenseCompactor
from prune_core.compaction.uniform import UniformCompactor
from prune_core.errors import RecipeError, RunError
from prune_core.folders.compacting import compact_folder
from prune_core.folders.loading import structure_of
from prune_core.measure import Ratio
from prune_core.recipe import MeasureSection, Recipe
from prune_core.structure import Attention
from prune_core.testing.sample_masks import emptied_rows, random_masks, unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.verification.verify import expect, outputs, verify

FAMILIES = ("bert", "llama", "t5", "gpt2", "phi3", "swin")
FASTER, SLOWER, UNSURE = Ratio(1.2, 1.1, 1.3), Ratio(0.9, 0.8, 0.95), Ratio(1.05, 0.99, 1.1)


def ragged(model, empty=()):
    """Masks that leave 3, 4, 5, ... neurons, of some units none, and the first head."""
    order = {unit.key: index for index, unit in enumerate(structure_of(model).ffn)}

    def kept(unit):
        if isinstance(unit, Attention):
            return [0]
        return [] if unit.key in empty else range(10, 13 + order[unit.key])

    return unit_masks(model, kept)


def aligned(model, masks, asked):
    found = align(model, masks, structure_of(model), Recipe(align=asked, device="cpu"))
    return found, compact(model, masks, found.applied(DenseCompactor()))


def prove(model, masks, compaction):
    """Masked = compact = reloaded."""
    masked = copy.deepcopy(model)
    masks.bake(masked)
    batch = {name: value for name, value in tiny_inputs(model).items() if name != "labels"}
    verify(expect(masked, [batch]), compaction, [batch]).enforce()


def sizes(model):
    return {unit.key: unit.size for unit in structure_of(model).ffn}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_multiple_computes_the_same_and_an_empty_unit_stays_empty(family):
    model = tiny_model(family, layers=4)
    empty = structure_of(model).ffn[1].key
    masks = ragged(model, [empty])
    found, compaction = aligned(model, masks, 8)
    prove(model, masks, compaction)
    plain = {unit.key: len(unit.kept) for unit in compact(model, masks).units}
    for key, size in sizes(compaction.model).items():
        assert size == (0 if key == empty else -(-plain[key] // 8) * 8)
    assert {key for one in found.sizes for key in one.units} == {key for key in sizes(model) if plain[key] % 8}
    assert all(note.count("neurons are kept where") == 1 for note in found.notes())


@pytest.mark.parametrize("asked", [64, 1000])
def test_a_unit_that_would_be_as_large_as_before_stays_whole(asked):
    model = tiny_model("bert")
    masks = unit_masks(model, lambda unit: range(40, 61) if not isinstance(unit, Attention) else None)
    found, compaction = aligned(model, masks, asked)
    prove(model, masks, compaction)
    assert set(sizes(compaction.model).values()) == {64}
    assert {one.kept for one in found.sizes} == {64}
    assert compaction.ragged == pytest.approx(compact(model, masks).density)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", ["row", "column", "rows_columns"])
@pytest.mark.parametrize("sparse", [False, True])
def test_neurons_that_go_for_any_reason_come_back_without_effect(kind, biases, sparse):
    """Silent ones, and ones that leave a constant, which is folded and must not count twice."""
    model = tiny_model("bert", layers=3)
    masks = random_masks(model, kind, sparse=sparse)
    if not biases:
        masks = type(masks)({n: m for n, m in masks.items() if not n.endswith("bias")}, sparse=sparse)
    found, compaction = aligned(model, masks, 32)
    assert any(size.kept > size.needed for size in found.sizes)
    prove(model, masks, compaction)
    plain = compact(model, masks)
    assert compaction.ragged == pytest.approx(plain.density)
    assert compaction.density >= plain.density
    before = copy.deepcopy(compaction.model.state_dict())
    compaction.masks.bake(compaction.model)
    after = compaction.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "masks of what remains say zero where it is"


def test_the_density_counts_every_weight_that_is_stored():
    model = tiny_model("llama")
    _, compaction = aligned(model, ragged(model), 16)
    structure = structure_of(compaction.model)
    assert compaction.density == pytest.approx(structure.size(compaction.model) / structure_of(model).size(model))
    assert compaction.density > compaction.ragged


def test_what_is_needed_is_known_before_anything_is_cut():
    """Whether masks are baked in or not, and the model stays as it was."""
    model = tiny_model("bert")
    masks = emptied_rows(model, "value", biases=True)
    masks = type(masks)({**random_masks(model, "row"), **masks})
    baked = copy.deepcopy(model)
    masks.bake(baked)
    before = copy.deepcopy(model.state_dict())
    plain, found = (
        compact(model, masks),
        [align(one, masks, structure_of(model), Recipe(align=64)) for one in (model, baked)],
    )
    assert found[0] == found[1]
    kept = {unit.key: len(unit.kept) for unit in plain.units}
    assert all(kept[key] == one.needed for one in found[0].sizes for key in one.units)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_compactor_that_decides_sizes_by_itself_refuses():
    with pytest.raises(RecipeError, match="align: UniformCompactor decides sizes by itself"):
        Alignment(8).applied(UniformCompactor())
    assert isinstance(Alignment().applied(UniformCompactor()), UniformCompactor)


@given(count=st.integers(1, 5000), of=st.integers(1, 300), more=st.integers(0, 5000))
def test_a_size_is_a_multiple_or_the_whole_and_the_smallest_that_holds_it(count, of, more):
    most = count + more
    found = multiple(count, of, most)
    assert count <= found <= most
    assert found % of == 0 or found == most
    assert found - count < of


@settings(max_examples=30, deadline=None)
@given(asked=st.integers(1, 70), left=st.lists(st.integers(0, 64), min_size=2, max_size=2))
def test_every_unit_holds_what_it_needs(asked, left):
    model = tiny_model("bert")
    counts = {unit.key: count for unit, count in zip(structure_of(model).ffn, left, strict=True)}
    masks = unit_masks(model, lambda unit: range(counts[unit.key]) if unit.key in counts else None)
    found = sizes(aligned(model, masks, asked)[1].model)
    for key, count in counts.items():
        assert found[key] == (multiple(count, asked, 64) if count else 0)


class TestAuto:
    def gains(self, *answers):
        """Stands for a measurement: what it says of each size, one dictionary for each time that it is asked."""
        asked = []

        def gains(tried):
            asked.append(list(tried))
            return {size: answers[min(len(asked), len(answers)) - 1].get(size, SLOWER) for size in tried[1:]}

        return gains, asked

    def test_it_takes_the_fastest_that_is_faster_for_certain_twice(self):
        gains, asked = self.gains({296: FASTER, 304: Ratio(1.3, 1.2, 1.4), 320: UNSURE})
        assert fastest(293, 3072, gains) == (304, Ratio(1.3, 1.2, 1.4))
        assert asked == [[293, 296, 304, 320], [293, 304]]

    def test_it_refuses_what_was_faster_by_chance(self):
        gains, asked = self.gains({296: FASTER}, {296: UNSURE})
        assert fastest(293, 3072, gains) == (293, UNSURE)
        assert len(asked) == 2

    def test_it_refuses_what_may_be_none(self):
        gains, asked = self.gains({296: UNSURE})
        assert fastest(293, 3072, gains) == (293, UNSURE)
        assert len(asked) == 1

    def test_it_tries_no_more_than_there_are_and_nothing_where_there_is_no_choice(self):
        gains, asked = self.gains({300: FASTER})
        assert fastest(293, 300, gains) == (300, FASTER)
        assert asked[0] == [293, 296, 300]
        assert fastest(64, 3072, gains) == (64, None)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_units_are_timed_by_themselves_on_inputs_of_their_shape(self, family, monkeypatch):
        """With a clock that likes multiples of 16."""
        model, ran = tiny_model(family, layers=4), []
        masks = ragged(model)

        def time_calls(calls, rounds, device):
            ran.append([call().shape for call in calls.values()])
            assert rounds == Recipe().measure.rounds
            return {name: [1.0 if int(name) % 16 == 0 else 2.0] * rounds for name in calls}

        monkeypatch.setattr(alignment, "time_calls", time_calls)
        found, compaction = aligned(model, masks, "auto")
        prove(model, masks, compaction)
        assert all(size % 16 == 0 for size in sizes(compaction.model).values())
        assert all(one.gain == one.low == one.high == 2 for one in found.sizes if one.kept > one.needed)
        assert all(len(set(shapes)) == 1 for shapes in ran), "outputs do not depend on the neurons"
        assert "which is faster (2.00x, 2.00 to 2.00)" in found.notes()[0]

    @pytest.mark.parametrize(
        ("asked", "own", "computed"),
        [
            ({}, torch.float32, torch.float32),
            ({}, torch.bfloat16, torch.bfloat16),
            ({"dtype": "bfloat16"}, torch.float32, torch.bfloat16),
            ({"dtype": "tf32"}, torch.bfloat16, torch.float32),
        ],
    )
    def test_units_are_timed_in_the_arithmetic_that_is_asked_for(self, asked, own, computed, monkeypatch):
        model, seen = tiny_model("bert").to(own), set()

        def time_calls(calls, rounds, device):
            seen.update((call().dtype, torch.get_float32_matmul_precision()) for call in calls.values())
            return {name: [1.0] * rounds for name in calls}

        monkeypatch.setattr(alignment, "time_calls", time_calls)
        recipe = Recipe(align="auto", device="cpu", measure=MeasureSection(**asked))
        align(model, ragged(model), structure_of(model), recipe)
        assert seen == {(computed, "high" if asked.get("dtype") == "tf32" else "highest")}
        assert model.dtype == own

    def test_a_unit_alone_computes_what_it_does_in_its_model(self):
        for family in ("bert", "llama", "phi3", "gpt2"):
            model, seen = tiny_model(family), {}
            unit = structure_of(model).ffn[0]
            layer = model.get_submodule(unit.up), model.get_submodule(unit.down)
            layer[0].register_forward_pre_hook(lambda _, given, seen=seen: seen.update(given=given[0]))
            layer[1].register_forward_hook(lambda _, given, out, seen=seen: seen.update(out=out))
            outputs(model, [{name: v for name, v in tiny_inputs(model).items() if name != "labels"}])
            part = alignment.Part(model, unit, unit.size)
            with torch.inference_mode():
                torch.testing.assert_close(part(seen["given"]), seen["out"])

    def test_really_measured_it_keeps_to_what_it_reports(self):
        model = tiny_model("bert")
        masks = ragged(model)
        recipe = Recipe.parse(
            {"align": "auto", "device": "cpu", "measure": {"rounds": 3, "batch_size": 1, "length": 4}}
        )
        found = align(model, masks, structure_of(model), recipe)
        assert {key for one in found.sizes for key in one.units} == set(sizes(model))
        made = sizes(compact(model, masks, found.applied(DenseCompactor())).model)
        assert made == {key: one.kept for one in found.sizes for key in one.units}


class TestRecord:
    FOUND = Alignment("auto", (Size(("layer.0.ffn", "layer.1.ffn"), 293, 296, 1.2, 1.1, 1.3), Size(("x",), 3, 3)))

    def test_it_is_read_as_it_was_written(self, tmp_path):
        self.FOUND.save(tmp_path / "alignment.json")
        assert Alignment.load(tmp_path / "alignment.json", "auto") == self.FOUND
        assert Alignment.load(tmp_path / "alignment.json", 8) is None, "something else is asked for now"
        assert Alignment.load(tmp_path / "none.json", "auto") is None
        assert Alignment.load(tmp_path / "none.json", 1) == Alignment()
        Alignment().save(tmp_path / "none.json")
        assert not (tmp_path / "none.json").exists()

    @pytest.mark.parametrize("text", ["{", "[]", '{"asked": "auto", "sizes": [{"units": [], "wrong": 1}]}'])
    def test_damage_is_named(self, text, tmp_path):
        (tmp_path / "alignment.json").write_text(text)
        with pytest.raises(RunError, match=r"alignment.json is damaged: .*; remove it and resume"):
            Alignment.load(tmp_path / "alignment.json", "auto")


def test_the_verb_reports_it(tmp_path):
    model = tiny_model("vit")
    masks = ragged(model)
    masks.bake(model)
    model.save_pretrained(tmp_path / "masked")
    masks.save(tmp_path / "masks.safetensors")
    paths = tmp_path / "masked", tmp_path / "masks.safetensors", tmp_path / "small"
    report = compact_folder(*paths, Recipe(align=8))
    assert report["density"] > report["density_of_ragged_layers"]
    assert report["alignment"]["asked"] == 8
    assert report["notes"] == [
        "layer.0.ffn: 8 neurons are kept where 3 are needed",
        "layer.1.ffn: 8 neurons are kept where 4 are needed",
    ]
    units = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]["units"]
    assert units["layer.0.ffn"] == {"kept": 8, "of": 64}
