"""What is checked before a run writes anything, by `prune run` and by its dry run alike."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import prune_core.runs.configuring as configuring
from prune_core.errors import DataError, ModelError, PluginError, RecipeError, RunError, StructureError
from prune_core.hookspecs import CompactorSpec
from prune_core.plugins import Offer, Plugins, load_plugins
from prune_core.pruning import Pruning
from prune_core.recipe import Recipe, TaskSection
from prune_core.runs.configuring import resolved, validated
from prune_core.runs.run import check, run
from prune_core.runs.verifying import verify_run
from prune_core.runs.workspace import absolute
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_structured.strategy import Structured

QUICK = {"max_steps": 2, "save_steps": 100}

MISTAKES = {
    "block size": (StructureError, "7", {"strategy": "block", "options": {"attention_block": [7, 7]}}),
    "everything excluded": (StructureError, "nothing to prune", {"options": {"exclude": ["*"]}}),
    "unreachable density": (StructureError, "cannot be reached", {"options": {"exclude": ["*.ffn"], "density": 0.1}}),
    "fill of what is sparse": (RecipeError, "fill: block leaves", {"strategy": "block", "fill": {"epochs": 1}}),
    "mistyped teacher": (ModelError, "nothing is there", {"teacher": "./no-such-folder/model"}),
    "teacher of another vocabulary": (RecipeError, "another vocabulary", {"teacher": "{stranger}"}),
    "no such baseline": (ModelError, "measure.baseline: .*there", {"measure": {"baseline": "./no-such-folder/model"}}),
    "no such model": (ModelError, "nothing is there", {"model": "./no-such-folder/model"}),
    "no such column": (DataError, "no column", {"columns": {"text": "nothing"}}),
}


@pytest.fixture(params=MISTAKES)
def mistake(request, recipe, inputs, write_bert, other_words, tmp_path):
    """`mistake(output)`: a recipe that is wrong in a way that only a look at model or data shows, and its error."""
    kind, message, change = MISTAKES[request.param]
    if request.param == "teacher of another vocabulary":
        other_words(write_bert(tmp_path / "stranger"))
        change = {"teacher": str(tmp_path / "stranger")}
    if "columns" in change:
        change = {"task": {**inputs["bert"]["task"], **change}}
    return lambda output: (recipe(output, **change), kind, message)


@pytest.fixture
def old_run(tmp_path):
    """Stands for a finished run: all that is looked at is that it holds a recipe which names the folder."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(Recipe(output=folder).dump())
    (folder / "manifest.json").write_text("{}")
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestNothingIsLost:
    def test_a_mistake_does_not_cost_the_run_that_is_there(self, mistake, old_run):
        before = contents(old_run)
        wrong, kind, message = mistake(old_run)
        with pytest.raises(kind, match=message) as caught:
            run(wrong, overwrite=True)
        assert "\n" not in str(caught.value)
        assert contents(old_run) == before

    def test_a_mistake_leaves_no_folder_that_stops_the_corrected_command(self, mistake, tmp_path):
        wrong, kind, message = mistake(tmp_path / "run")
        with pytest.raises(kind, match=message):
            run(wrong)
        assert not (tmp_path / "run").exists()

    def test_a_dry_run_finds_the_same_mistake(self, mistake, tmp_path):
        wrong, kind, message = mistake(tmp_path / "run")
        with pytest.raises(kind, match=message):
            check(wrong)
        assert not (tmp_path / "run").exists()

    def test_overwriting_a_folder_that_is_not_there_yet(self, recipe, tmp_path):
        assert run(recipe(tmp_path / "run", training=QUICK), overwrite=True)["output"] == str(tmp_path / "run")


class TestDryRun:
    def test_a_folder_that_holds_a_run(self, recipe, old_run):
        with pytest.raises(RunError, match="already holds a run"):
            check(recipe(old_run))
        before = contents(old_run)
        assert check(recipe(old_run), overwrite=True)["output"] == str(old_run)
        assert contents(old_run) == before

    def test_a_run_to_resume(self, recipe, finished, tmp_path):
        assert check(recipe(finished()[0]), resume=True)["steps"] == 8
        with pytest.raises(RunError, match="no run to resume"):
            check(recipe(tmp_path / "run"), resume=True)

    def test_evaluations_that_never_come_are_said(self, recipe, tmp_path, caplog):
        check(recipe(tmp_path / "run", training={"eval_steps": 9}))
        assert "training.eval_steps: 9 is more than the 8 steps of the training" in caplog.text

    def test_a_distillation_without_a_teacher_is_said(self, recipe, tmp_path, caplog):
        check(recipe(tmp_path / "run", teacher="none"))
        assert "distillation" not in caplog.text
        check(recipe(tmp_path / "run", teacher="none", distillation={"cache": True}))
        assert "there is no teacher, so the recipe's distillation does nothing" in caplog.text

    def test_it_names_the_compactor(self, recipe, tmp_path):
        assert check(recipe(tmp_path / "run"))["compactor"] == "DenseCompactor"


class TestDemonstration:
    """It is rehearsed on a dense model of one step."""

    def test_a_dry_run_plans_it_and_writes_nothing(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        plan = check(validated({"strategy": {"name": "structured"}, "device": "cpu"}))
        assert plan["task"] == "image-classification, 1437 examples to train on, 360 to evaluate on"
        assert plan["steps"] == 12 * 23
        assert plan["teacher"] == "self"
        assert list(tmp_path.iterdir()) == []

    def test_a_mistake_costs_nothing(self, old_run):
        before = contents(old_run)
        strategy = {"name": "hybrid", "attention_block": [7, 7]}
        with pytest.raises(StructureError, match="7"):
            run(validated({"strategy": strategy, "device": "cpu", "output": str(old_run)}), overwrite=True)
        assert contents(old_run) == before

    def test_what_it_resolves_to_is_read_back_equal(self, tmp_path):
        """A demonstration that was killed before its dense model was there is resumed by the recipe that it left."""
        given = Recipe.parse({"training": {"seed": 3}})
        whole = resolved(given)
        assert (whole.training.epochs, whole.training.seed, whole.measure.batch_size) == (12.0, 3, 64)
        (tmp_path / "recipe.yaml").write_text(whole.dump())
        assert resolved(Recipe.load(tmp_path / "recipe.yaml")) == whole

    def test_it_is_not_what_is_meant_where_data_are_named(self):
        with pytest.raises(
            RecipeError, match=r"model \(--model\) and task\.name \(--task\) missing beside task\.dataset"
        ):
            run(Recipe.parse({"task": {"dataset": "glue"}}))


class TestTeacher:
    def test_self_needs_a_trained_head(self, recipe, write_bert, tmp_path):
        new = write_bert(tmp_path / "new", num_labels=2)
        with pytest.raises(RecipeError, match=r"has no head trained .*2 labels: LABEL_0.*or --teacher none"):
            run(recipe(tmp_path / "run", model=new, teacher="self"))
        assert not (tmp_path / "run").exists()

    def test_the_first_token_that_differs_is_named(self, recipe, write_bert, other_words, tmp_path):
        other_words(write_bert(tmp_path / "stranger"))
        with pytest.raises(RecipeError, match=r"10 tokens differ \('##er' is 11 in the model's, 8 in the teacher's\)"):
            check(recipe(tmp_path / "run", teacher=str(tmp_path / "stranger")))

    def test_one_without_a_tokenizer_cannot_be_compared(self, recipe, write_bert, tmp_path):
        mute = Path(write_bert(tmp_path / "mute"))
        for path in [*mute.glob("tokenizer*"), *mute.glob("vocab*")]:
            path.unlink()
        with pytest.raises(RecipeError, match=r"teacher: .*mute (holds no tokenizer|has another vocabulary)"):
            check(recipe(tmp_path / "run", teacher=str(mute)))

    def test_one_with_the_labels_in_another_order(self, recipe, write_bert, tmp_path):
        """Numbers in the data fit both heads."""
        numbered = tmp_path / "numbered.csv"
        numbered.write_text("sentence,label\n" + "a film,0\nvery good,1\nthe film,2\n" * 4)
        task = {"name": "text-classification", "train_file": str(numbered), "validation_file": str(numbered)}
        teacher, names = write_bert(tmp_path / "teacher"), {0: "neutral", 1: "bad", 2: "good"}
        check(recipe(tmp_path / "run", teacher=teacher, task=task))
        config = AutoConfig.from_pretrained(teacher)
        config.update({"id2label": names, "label2id": {name: index for index, name in names.items()}})
        config.save_pretrained(teacher)
        said = (
            r"labels of .*teacher are neutral, bad, good, those of the model bad, good, neutral: it would teach other"
        )
        with pytest.raises(RecipeError, match=said):
            check(recipe(tmp_path / "run", teacher=teacher, task=task))
        nameless = write_bert(tmp_path / "nameless", num_labels=3)
        check(recipe(tmp_path / "run", teacher=nameless, task=task))

    def test_one_of_a_family_that_takes_fewer_inputs(self, recipe, write_distilbert, tmp_path, monkeypatch):
        """DistilBERT knows no token types; some versions of it pass over them, some fail."""
        from transformers import DistilBertForSequenceClassification as DistilBert

        original, seen = DistilBert.forward, []

        def forward(self, input_ids=None, attention_mask=None, output_hidden_states=None):
            seen.append(tuple(input_ids.shape))
            return original(self, input_ids, attention_mask, output_hidden_states=output_hidden_states)

        monkeypatch.setattr(DistilBert, "forward", forward)
        teacher = write_distilbert(tmp_path / "teacher")
        assert run(recipe(tmp_path / "run", teacher=teacher, training=QUICK))["teacher"] == teacher
        assert len(seen) == 2


class TestCompactor:
    @pytest.fixture
    def two(self, monkeypatch):
        """A second compactor is installed that takes whatever the dense one takes."""
        other = CompactorSpec("other", "the same by another name", "prune_core.compaction.dense:DenseCompactor")

        def load(disabled=()):
            offers = () if "other-plugin" in disabled else (Offer("compactors", other, "other-plugin", "1"),)
            return Plugins((*load_plugins(disabled).offers, *offers), ())

        monkeypatch.setattr(configuring, "load_plugins", load)

    def test_a_choice_that_is_not_made_stops_the_run_before_its_training(self, two, recipe, tmp_path):
        for start in (run, check):
            with pytest.raises(PluginError, match="several accept them: dense, other; name one with --compactor"):
                start(recipe(tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("choice", [{"compactor": "dense"}, {"plugins": {"disabled": ["other-plugin"]}}])
    def test_the_choice_can_be_made_when_a_run_is_resumed(self, choice, two, finished, recipe, same_result, tmp_path):
        """The masks are there, and how they were made does not depend on who compacts them."""
        folder = tmp_path / "run"
        shutil.copytree(finished()[0], folder)
        (folder / "manifest.json").unlink()
        shutil.rmtree(folder / "model")
        with pytest.raises(PluginError, match="several accept them"):
            run(recipe(folder), resume=True)
        run(recipe(folder, **choice), resume=True)
        assert same_result(folder, finished()[0])
        resumed = Recipe.load(folder / "recipe.yaml")
        assert (resumed.compactor, resumed.plugins.disabled) in (("dense", ()), ("auto", ("other-plugin",)))


class TestCalibration:
    @pytest.fixture
    def given(self, monkeypatch):
        """The batches that a strategy is offered when it is prepared, read twice."""
        seen, original = [], Structured.prepare

        def prepare(self, context):
            seen.append([list(context.calibration()), list(context.calibration())])
            original(self, context)

        monkeypatch.setattr(Structured, "prepare", prepare)
        return seen

    @pytest.mark.parametrize("family", ["bert", "vit"])
    def test_a_run_offers_its_training_data(self, family, given, recipe, tmp_path):
        check(recipe(tmp_path / "run", family=family))
        check(recipe(tmp_path / "run", family=family))
        (one, again), (other, _) = given
        assert [len(batch["labels"]) for batch in one] == [8] * 5 + [2]
        assert {"bert": "input_ids", "vit": "pixel_values"}[family] in one[0]
        for batches in (again, other):
            assert all(torch.equal(a[name], b[name]) for a, b in zip(one, batches, strict=True) for name in a)
        assert sorted(int(label) for batch in one for label in batch["labels"]) == [0] * 14 + [1] * 14 + [2] * 14
        assert one[0]["labels"].tolist() != [0, 1, 2, 0, 1, 2, 0, 1], "in the order of the file: it may be sorted"

    def test_anyones_own_loop_may_offer_batches(self, given):
        model = tiny_model("bert")
        batches = [tiny_inputs(model)]
        Pruning(model, "structured", total_steps=3, calibration=lambda: batches)
        Pruning(tiny_model("bert"), "structured", total_steps=3)
        assert given == [[batches, batches], [[], []]]


class TestPlaces:
    def test_the_recipe_of_a_run_means_the_same_from_every_folder(
        self, recipe, inputs, write_bert, monkeypatch, tmp_path
    ):
        monkeypatch.chdir(tmp_path)
        write_bert(Path("model"))
        write_bert(Path("teacher"), seed=1)
        for name in ("train", "validation"):
            shutil.copy(inputs["bert"]["task"][f"{name}_file"], f"{name}.csv")
        task = {"name": "text-classification", "train_file": "train.csv", "validation_file": "validation.csv"}
        given = recipe("run", model="model", teacher="elsewhere/../teacher", task=task, training=QUICK)
        (tmp_path / "elsewhere").mkdir()
        assert run(given)["output"] == "run"
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert verify_run(tmp_path / "run").passed
        left = Recipe.load(tmp_path / "run" / "recipe.yaml")
        assert (left.model, left.teacher) == (str(tmp_path / "model"), str(tmp_path / "teacher"))
        assert (left.task.train_file, left.output) == (tmp_path / "train.csv", tmp_path / "run")
        assert check(left.model_copy(update={"output": None}))["steps"] == 2
        monkeypatch.chdir(tmp_path)
        assert run(given, resume=True)["output"] == "run", "the same recipe by other names of the same places"

    def test_a_link_to_a_file_keeps_the_extension_that_its_target_lacks(self, tmp_path):
        (tmp_path / "blob").touch()
        (tmp_path / "train.parquet").symlink_to(tmp_path / "blob")
        given = Recipe(task=TaskSection(name="t", train_file=tmp_path / "x" / ".." / "train.parquet"))
        assert absolute(given).task.train_file == tmp_path / "train.parquet"

    def test_names_of_the_hub_stay_names(self):
        given = Recipe(model="org/model", teacher="org/teacher", task=TaskSection(name="t", dataset="org/data"))
        assert absolute(given) == given

    def test_a_run_that_holds_its_data_and_model_can_be_moved(self, finished, inputs, tmp_path):
        """As the demonstration does."""
        folder = tmp_path / "run"
        shutil.copytree(finished("vit", "structured")[0], folder)
        shutil.copytree(Path(inputs["vit"]["model"]), folder / "dense")
        shutil.copytree(Path(inputs["vit"]["task"]["train_file"]).parent, folder / "data")
        recipe = Recipe.load(folder / "recipe.yaml")
        files = {
            name: folder / "data" / f"vit-{name.removesuffix('_file')}.csv"
            for name in ("train_file", "validation_file")
        }
        changes = {"model": str(folder / "dense"), "task": recipe.task.model_copy(update=files), "output": folder}
        (folder / "recipe.yaml").write_text(recipe.model_copy(update=changes).dump())
        moved = folder.rename(tmp_path / "moved")
        assert verify_run(moved).passed
