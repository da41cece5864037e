"""The teacher's outputs on disk: the same loss without its forward, whatever happens in between."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import prune_core.distillation.lessons as lessons
from prune_core.distillation.examples import EXAMPLE, noted, parted
from prune_core.distillation.teacher import Teacher, showing_attention
from prune_core.errors import RecipeError, RunError, TrainingError
from prune_core.runs.preparation import make_job, make_teacher, prepare
from prune_core.runs.run import run

ALL = {"hidden_states": 0.5, "attention_maps": 1.0, "cache": True}
LONG = {"max_steps": 14, "save_steps": 3}


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(lessons, "_SHARD", 16)


@pytest.fixture
def taught(recipe, tmp_path):
    """`taught(family)`: preparation and teacher of a run with all that can be imitated."""

    def make(family="bert", asked=ALL, **others):
        ready = prepare(recipe(tmp_path / "run", family=family, distillation=asked, **others))
        return ready, make_teacher(ready.job, ready.teacher, ready.student)

    return make


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("family", "side"), [("bert", "right"), ("bert", "left"), ("vit", None)])
def test_the_loss_is_the_teachers_own_whatever_the_padding(family, side, taught, tmp_path):
    # BERT's first token is a padding one where texts are padded on the left, and positions depend on the batch: without
    # what hangs on these it is as decoders are, which are padded so
    ready, teacher = taught(family, ALL | ({"logits": 0.0} if side == "left" else {}))
    task, features, student = ready.job.task, ready.features, ready.student.eval()
    task.processor.padding_side = side
    for model in (student, teacher.model) if side == "left" else ():
        torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
    teacher.memory = lessons.kept_lessons(teacher, features, tmp_path / "teacher", batch_size=5)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).tolist()
    collate = noted(task, teacher)
    with showing_attention(student, teacher), torch.no_grad():
        for start in range(0, len(order), 8):
            rows = [{**features[index], EXAMPLE: index} for index in order[start : start + 8]]
            batch, beside = parted(collate(rows))
            outputs = student(**batch, **teacher.wanted)
            remembered, asked = teacher.loss(outputs, batch, beside), teacher.loss(outputs, batch)
            assert float(remembered) == pytest.approx(float(asked), rel=1e-5)
            student.classifier.weight.add_(0.1)  # the student moves, its teacher does not


def test_the_teacher_is_asked_once_for_each_example(recipe, write_distilbert, monkeypatch, tmp_path):
    from transformers import DistilBertForSequenceClassification as DistilBert

    original, seen = DistilBert.forward, []

    def forward(self, input_ids=None, attention_mask=None, output_hidden_states=None):
        seen.append(len(input_ids))
        return original(self, input_ids, attention_mask, output_hidden_states=output_hidden_states)

    teacher = write_distilbert(tmp_path / "teacher")
    mine = {"strategy": "hybrid", "teacher": teacher, "training": LONG}
    run(recipe(tmp_path / "asked", **mine))
    monkeypatch.setattr(DistilBert, "forward", forward)
    run(recipe(tmp_path / "run", distillation={"cache": True}, **mine))
    assert sum(seen) == 42 + 3, "each example once, and one of each file beforehand"
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "asked"), rel=1e-3)
    assert not (tmp_path / "run" / "teacher").exists(), "it takes room and is of no use after the run"


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_killed_while_they_are_written_and_while_training(family, recipe, children, same_result, tmp_path):
    expected = tmp_path / "whole"
    mine = {"family": family, "strategy": "hybrid", "training": LONG, "distillation": ALL}
    run(recipe(expected, **mine))
    folder = tmp_path / "run"
    small = "import prune_core.distillation.lessons as lessons\nlessons._SHARD = 16\n"
    moments = {
        "in the middle of the second file": (
            "original = lessons.save_file\n"
            "def save(parts, draft):\n"
            "    original(parts, draft)\n"
            "    if '000001' in draft.name:\n"
            "        draft.write_bytes(draft.read_bytes()[:-100])\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "lessons.save_file = save\n"
        ),
        "in training": (
            "def lesson(self, examples, like):\n"
            "    self.asked = getattr(self, 'asked', 0) + 1\n"
            "    if self.asked == 5:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return original_lesson(self, examples, like)\n"
            "original_lesson = lessons.Lessons.lesson\n"
            "lessons.Lessons.lesson = lesson\n"
        ),
    }
    written = {}
    for moment, patch in moments.items():
        code, error = children.finish(recipe(folder, **mine), resume=folder.is_dir(), before=small + patch)
        assert code == -9, f"{moment}: {error}"
        found = {path: path.stat().st_mtime_ns for path in folder.glob("teacher/*/*.safetensors")}
        assert written.items() <= found.items(), "what was whole is not made again"
        written = found
    assert len(written) == 3
    code, error = children.finish(recipe(folder, **mine), resume=True, before=small)
    assert (code, error) == (0, "")
    assert same_result(folder, expected)


def test_a_damaged_file_is_named(taught, tmp_path):
    ready, teacher = taught()
    kept = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    path = kept.path(0)
    path.write_bytes(path.read_bytes()[:-50])
    again = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    like = teacher.lesson(ready.job.task.collate([ready.features[0]]))
    with pytest.raises(RunError, match=r"000000\.safetensors is damaged .*remove .* and resume"):
        _ = [again.lesson([example], like) for example in range(42)]


def test_other_weights_or_other_features_are_other_lessons(taught, tmp_path):
    ready, teacher = taught()
    first = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    again = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    assert first.folder == again.folder
    with torch.no_grad():
        teacher.model.classifier.bias[0] += 1e-3
    moved = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    assert moved.folder != first.folder
    assert not first.folder.exists()
    (tmp_path / "teacher" / "notes.txt").write_text("of somebody else")
    fewer = lessons.kept_lessons(teacher, ready.features.select(range(20)), tmp_path / "teacher", batch_size=8)
    assert fewer.folder != moved.folder
    assert [path.name for path in (tmp_path / "teacher").iterdir()] == [fewer.folder.name], "it is ours alone"


def test_what_the_disk_has_no_room_for_is_refused(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    lessons.need_room(tmp_path, free // 2)
    with pytest.raises(RunError, match=r"need up to [\d.]+ GB and .* has [\d.]+ GB left: make room, or leave dist"):
        lessons.need_room(tmp_path, free + 10**12)


def test_the_room_is_never_said_too_small(taught, tmp_path):
    ready, teacher = taught()
    shards = list(lessons._shards(ready.features))
    said = lessons._room(teacher, ready.features, shards)
    kept = lessons.kept_lessons(teacher, ready.features, tmp_path / "teacher", batch_size=8)
    taken = sum(path.stat().st_size for path in kept.folder.iterdir())
    assert 0.9 * taken < said + 4096 * len(shards)
    assert said < 1.5 * taken


def test_inputs_that_are_drawn_anew_are_refused(taught):
    """As in masked language modelling."""
    ready, _ = taught()
    task = ready.job.task
    lessons.refuse_redrawn(task, ready.features)

    def drawn(rows):
        batch = task.collate(rows)
        batch["input_ids"] = batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.3, 4)
        return batch

    drawing = SimpleNamespace(section=task.section, collate=drawn)
    with pytest.raises(
        RecipeError, match=r"distillation\.cache: text-classification draws input_ids anew at each pass"
    ):
        lessons.refuse_redrawn(drawing, ready.features)


def test_a_layer_that_is_not_there_is_found_before_the_run(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"distillation\.layers: the teacher has no layer 3; its layers are 1 to 2"):
        run(recipe(tmp_path / "run", distillation={"layers": {1: 3}}))
    assert not (tmp_path / "run").exists()


def test_a_model_without_attention_maps_is_named(recipe, tmp_path):
    job = make_job(recipe(tmp_path / "run", distillation=ALL))
    model = job.task.load_model(job.model_path)
    teacher = Teacher(job.task.load_model(job.model_path), job.task, job.recipe.distillation)
    teacher.model.forward = lambda **inputs: type(model).forward(
        teacher.model, **{**inputs, "output_attentions": False}
    )
    batch = job.task.collate([job.task.train()[0]])
    with pytest.raises(RecipeError, match=r"attention_maps: BertForSequenceClassification puts out no attention maps"):
        teacher.rehearse(model, batch)


def test_the_layer_that_went_astray_is_named_all_the_same(recipe, write_bert, tmp_path):
    """A batch that carries the numbers of its examples is run once more to find the layer."""
    model = write_bert(tmp_path / "model")
    weights = load_file(f"{model}/model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][0, 0] = torch.inf
    teacher = write_bert(tmp_path / "teacher")
    save_file(weights, f"{model}/model.safetensors", metadata={"format": "pt"})
    mine = recipe(tmp_path / "run", model=model, teacher=teacher, distillation={"cache": True})
    with pytest.raises(
        TrainingError, match=r"the first layer that puts out nan or infinity is bert\.encoder\.layer\.1"
    ):
        run(mine)
