"""Runs that start without some layers: the config in step, the teacher whole, what a layer gets imitated."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from prune_core.distillation.teacher import Teacher
from prune_core.folders.pretrained import load_saved
from prune_core.kit.distillation import hidden_loss
from prune_core.measure import folder_size
from prune_core.recipe import DistillationSection
from prune_core.runs.preparation import prepare
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run
from prune_core.testing.tiny import tiny_inputs, tiny_model


@pytest.fixture(scope="module")
def deep(write_bert, tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("deep") / "bert", num_hidden_layers=4)


def test_a_run_without_some_layers(deep, recipe, tmp_path):
    folder = tmp_path / "run"
    manifest = run(recipe(folder, model=deep, strategy="structured", depth={"keep": 2}, training={"max_steps": 2}))
    assert manifest["layers"] == {"layer": {"kept": [0, 3], "of": 4}}
    assert {unit["key"].rpartition(".")[0] for unit in manifest["units"]} == {"layer.0", "layer.1"}
    assert manifest["density"]["of_dense"] == pytest.approx(manifest["density"]["reached"] / 2)
    assert manifest["density"]["reached"] == pytest.approx(0.5, abs=0.06)
    rows = {row["figure"]: (row["dense"], row["pruned"]) for row in manifest["summary"]}
    assert rows["layers"] == ("4", "2")
    assert rows["heads"][0] == "16"
    size = folder_size(Path(deep))
    assert rows["bytes on disk"][0] == f"{size:,}", "of the whole dense model, as its parameters and FLOPs are"
    assert manifest["speedup"]["baseline"]["file_bytes"] == size > folder_size(folder / "masked")
    for name in ("masked", "model"):
        assert AutoConfig.from_pretrained(folder / name).num_hidden_layers == 2
    assert verify_run(folder).passed
    again = run(recipe(tmp_path / "again", model=str(folder / "masked"), teacher=deep, training={"max_steps": 1}))
    assert again["layers"] == manifest["layers"], "a run that goes on from there knows which layers they were"


def test_through_several_densities_layers_go_once(deep, recipe, tmp_path):
    options = {"options": {"density": None}, "densities": [0.7, 0.5], "depth": {"drop": ["layer.1"]}}
    manifest = run(recipe(tmp_path / "run", model=deep, training={"max_steps": 4}, **options))
    for member in manifest["members"]:
        assert AutoConfig.from_pretrained(member["model"]).num_hidden_layers == 3
        assert AutoConfig.from_pretrained(member["model"]).prune_layers == {"layer": {"kept": [0, 2, 3], "of": 4}}


def test_a_dry_run_says_how_many_layers(deep, recipe, tmp_path):
    plan = check(recipe(tmp_path / "run", model=deep, depth={"drop": ["encoder.layer.2"]}))
    assert plan["layers"] == "3 of 4"


def test_the_student_starts_as_the_teacher_without_these_layers(deep, recipe, tmp_path):
    ready = prepare(recipe(tmp_path / "run", model=deep, depth={"keep": 2}))
    assert ready.teacher.config.num_hidden_layers == 4
    assert ready.share == pytest.approx(0.5)
    whole = load_saved(deep).bert.encoder.layer
    student = ready.student.bert.encoder.layer
    assert torch.equal(student[1].output.dense.weight, whole[3].output.dense.weight)
    assert student[1].output.dense.weight is not ready.dense.bert.encoder.layer[3].output.dense.weight


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_each_layer_is_to_get_what_it_got(family):
    """Of hidden states those that enter the layers that stay, and the last ones."""
    from prune_core.compaction.layers import origins
    from prune_core.folders.loading import structure_of
    from prune_core.recipe import DepthSection
    from prune_core.rewriting.depth import shortened

    whole = tiny_model(family, layers=4)
    drop = ("layer.1", "layer.2") if family == "bert" else ("encoder.layer.0", "decoder.layer.3")
    student = copy.deepcopy(shortened(whole, structure_of(whole), DepthSection(drop=drop))[0])
    section = DistillationSection(logits=0.0, cross_entropy=0.0, hidden_states=1.0)
    teacher = Teacher(whole, _Task(), section, origins=origins(student.config))
    batch = tiny_inputs(whole)
    loss = teacher.loss(student(**batch, output_hidden_states=True), batch)
    names = (
        {"hidden_states": (0, 3, 4)}
        if family == "bert"
        else {"encoder_hidden_states": (1, 2, 3, 4), "decoder_hidden_states": (0, 1, 2, 4)}
    )
    mine, theirs = (model(**batch, output_hidden_states=True) for model in (student, whole))
    expected = sum(
        hidden_loss(mine[name], [theirs[name][index] for index in places], _mask(name, batch))
        for name, places in names.items()
    )
    torch.testing.assert_close(loss, expected)


def _mask(name, batch):
    return (batch["labels"] != -100).long() if name.startswith("decoder") else batch["attention_mask"]


class _Task:
    """A task of which nothing but hidden states is learnt."""

    imitation = "distribution"

    def model_inputs(self, batch):
        return batch

    def taught(self, outputs, batch):
        return {"logits": outputs.logits}

    def counted(self, batch):
        return None

    def loss(self, outputs, batch):
        return None
