"""Teachers and fill: what a recipe can ask for beside the strategy."""

import json
import logging

import pytest
import torch

from prune_core.compaction import compact
from prune_core.errors import ModelError, RecipeError
from prune_core.granularity import Block
from prune_core.kit.fill import fill_zeros
from prune_core.masks import Mask, MaskSet
from prune_core.runs.run import check, run
from prune_core.testing.tiny import tiny_model

QUICK = {"max_steps": 2, "save_steps": 100}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def first_loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


class TestTeacher:
    """At the first step nothing is masked yet and the penalty of top-k is zero: the loss shows the teacher alone."""

    @pytest.fixture(scope="class")
    def still(self, tmp_path_factory, request):
        """The tiny BERT without dropout, so that it and its copy agree."""
        write_bert = request.getfixturevalue("write_bert")
        return write_bert(tmp_path_factory.mktemp("still") / "model", **NO_DROPOUT)

    @pytest.fixture
    def loss_with(self, recipe, still, tmp_path):
        def get(teacher, **others):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            mine = recipe(folder, model=still, strategy="unstructured", training=QUICK, teacher=teacher, **others)
            manifest = run(mine)
            return first_loss(folder), manifest["teacher"]

        return get

    def test_self_agrees_with_itself_and_leaves_a_tenth_of_the_cross_entropy(self, loss_with):
        plain, name = loss_with("none")
        assert name == "none"
        taught, name = loss_with("self")
        assert name == "self"
        assert taught == pytest.approx(0.1 * plain, rel=1e-3)
        assert loss_with("auto") == (taught, "self")

    def test_a_path(self, loss_with, write_bert, tmp_path_factory):
        other = write_bert(tmp_path_factory.mktemp("teacher") / "model", seed=7, **NO_DROPOUT)
        plain, _ = loss_with("none")
        taught, name = loss_with(other)
        assert name == other
        assert taught > 0.1 * plain + 1e-3

    def test_another_hidden_size_teaches_logits_only(self, loss_with, write_bert, tmp_path_factory, caplog):
        path = tmp_path_factory.mktemp("teacher") / "model"
        wide = write_bert(path, seed=7, hidden_size=64, num_hidden_layers=1, **NO_DROPOUT)
        with caplog.at_level(logging.WARNING, logger="prune_core"):
            taught, _ = loss_with(wide)
        assert "hidden states are of size 64, the student's of size 32: they are not imitated" in caplog.text
        only_logits, _ = loss_with(wide, distillation={"hidden_states": 0.0})
        assert taught == pytest.approx(only_logits)

    def test_hidden_states_count_where_they_fit(self, loss_with, write_bert, tmp_path_factory):
        other = write_bert(tmp_path_factory.mktemp("teacher") / "model", seed=7, **NO_DROPOUT)
        with_states, _ = loss_with(other)
        without, _ = loss_with(other, distillation={"hidden_states": 0.0})
        assert with_states > without + 1e-3

    def test_a_teacher_of_other_labels_is_refused(self, recipe, write_bert, tmp_path):
        stranger = write_bert(tmp_path / "stranger", num_labels=2)
        with pytest.raises(RecipeError, match=r"teacher: .*stranger has no head trained for these labels"):
            run(recipe(tmp_path / "run", teacher=stranger, training=QUICK))

    def test_a_teacher_that_is_not_there_is_refused(self, recipe, tmp_path):
        with pytest.raises(ModelError, match="nothing is there"):
            run(recipe(tmp_path / "run", teacher=str(tmp_path / "nowhere"), training=QUICK))

    def test_a_new_head_has_no_teacher_by_default(self, recipe, write_bert, tmp_path):
        new = write_bert(tmp_path / "new", num_labels=2)
        assert check(recipe(tmp_path / "run", model=new))["teacher"] == "none"
        manifest = run(recipe(tmp_path / "run", model=new, training=QUICK))
        assert manifest["teacher"] == "none"
        assert manifest["metrics"]["dense"] == {}
        assert manifest["metric"]["dense"] is None


class TestFill:
    @pytest.mark.parametrize("family", ["bert", "vit"])
    def test_it_changes_weights_and_never_sizes(self, family, finished, recipe, weights, tmp_path):
        plain, manifest = finished(family, "structured")
        filled = run(recipe(tmp_path / "run", family=family, fill={"max_steps": 2}))
        assert filled["density"] == manifest["density"]
        assert filled["units"] == manifest["units"]
        for name in ("masks.safetensors", "masked"):
            one, other = weights(plain / name), weights(tmp_path / "run" / name)
            assert all(torch.equal(one[key], other[key]) for key in one), name
        before, after = weights(plain / "model"), weights(tmp_path / "run" / "model")
        assert {name: tensor.shape for name, tensor in before.items()} == {n: t.shape for n, t in after.items()}
        assert any(not torch.equal(before[name], after[name]) for name in before)
        stages = {json.loads(line)["stage"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()}
        assert stages == {"prune", "fill"}

    @pytest.mark.parametrize("nothing", [{"max_steps": 0}, {"epochs": 0}])
    def test_it_can_be_left_out(self, nothing, finished, recipe, weights, tmp_path):
        folder, _ = finished("bert", "hybrid")
        run(recipe(tmp_path / "run", strategy="hybrid", fill=nothing))
        masked, model = weights(tmp_path / "run" / "masks.safetensors"), weights(tmp_path / "run" / "model")
        before = weights(folder / "masks.safetensors")
        assert all(torch.equal(before[name], masked[name]) for name in before)
        assert any(not torch.equal(tensor, model[name]) for name, tensor in weights(folder / "model").items())
        assert not (tmp_path / "run" / "checkpoints" / "fill").exists()

    @pytest.mark.parametrize("strategy", ["block", "unstructured"])
    @pytest.mark.parametrize("fill", [{"epochs": 1}, {"max_steps": 2}])
    def test_sparse_strategies_refuse_it_before_any_training(self, strategy, fill, recipe, tmp_path):
        with pytest.raises(RecipeError, match=rf"fill: {strategy} leaves zeros out on disk"):
            run(recipe(tmp_path / "run", strategy=strategy, fill=fill))
        assert not (tmp_path / "run" / "checkpoints").exists()

    def test_a_rate_alone_is_no_fill_of_a_strategy_that_does_not_fill(self, recipe, tmp_path):
        with pytest.raises(RecipeError, match=r"fill\.learning_rate: structured does not fill by itself"):
            check(recipe(tmp_path / "run", fill={"learning_rate": 1e-5}))
        check(recipe(tmp_path / "run", fill={"learning_rate": 1e-5, "max_steps": 2}))
        check(recipe(tmp_path / "run", strategy="hybrid", fill={"learning_rate": 1e-5}))

    def test_new_values_are_small_and_where_zeros_were(self):
        model = tiny_model("bert")
        name = "bert.encoder.layer.0.attention.self.query.weight"
        values = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
        masks = MaskSet({name: Mask(Block(8, 8), values, (32, 32))})
        masks.bake(model)
        before = model.get_parameter(name).detach().clone()
        kept = masks[name].expand()
        assert fill_zeros(model, masks, seed=0) == int((~kept).sum())
        after = model.get_parameter(name).detach()
        assert torch.equal(after[kept], before[kept])
        assert (after[~kept] != 0).all()
        assert float(after[~kept].std() / before[kept].std()) == pytest.approx(0.01, rel=0.15)

    def test_a_matrix_that_is_all_zeros_can_be_trained_again(self):
        """Query and key of zeros have no gradient: without new values they would stay zero for ever."""
        model = tiny_model("bert")
        names = [f"bert.encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key")]
        nothing = torch.zeros(4, 4, dtype=torch.bool)
        masks = MaskSet({name: Mask(Block(8, 8), nothing, (32, 32)) for name in names})
        compaction = compact(model, masks)
        fill_zeros(compaction.model, compaction.masks, seed=0)
        for name in names:
            weight = compaction.model.get_parameter(name)
            assert (weight != 0).all()
            assert float(weight.std()) < 0.01

    def test_the_seed_decides_the_new_values(self):
        name = "bert.encoder.layer.0.attention.self.query.weight"
        masks = MaskSet({name: Mask(Block(16, 16), torch.eye(2).bool(), (32, 32))})

        def filled(seed):
            model = tiny_model("bert")
            fill_zeros(model, masks, seed)
            return model.get_parameter(name).detach()

        assert torch.equal(filled(3), filled(3))
        assert not torch.equal(filled(3), filled(4))
