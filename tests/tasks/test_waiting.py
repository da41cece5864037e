"""No built-in task waits for the device in a step with a teacher, whatever is imitated: see tests/core/waits.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import send_to_device
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from prune_core.distillation.examples import EXAMPLE, noted, parted
from prune_core.distillation.lessons import kept_lessons
from prune_core.distillation.teacher import Teacher, showing_attention
from prune_core.recipe import DistillationSection
from prune_core.task import Task
from prune_core.tasks import config
from prune_core.tasks.image_classification import ImageClassification
from prune_core.tasks.language_modeling import CausalLanguageModeling, MaskedLanguageModeling
from prune_core.tasks.multiple_choice import MultipleChoice
from prune_core.tasks.sentence_embedding import SentenceEmbedding
from prune_core.tasks.sequence_to_sequence import Summarization
from prune_core.tasks.text_classification import TextClassification
from prune_core.tasks.token_classification import TokenClassification
from tests.core.waits import AWAY, Waits, without_those_of_transformers
from tests.tasks import answering, writers

TEXTS = ["a good film", "a very very bad film", "the bad"]
TAGS = ["O", "B-PER"]

Models = dict[str, Callable[..., str]]
TASKS: dict[str, Callable[[Path, Models], Task]] = {
    "text-classification": lambda folder, models: TextClassification(
        _section(config.TextClassificationConfig, folder, sentence=TEXTS, label=[1, 0, 0]), models["text"](["0", "1"])
    ),
    "text-regression": lambda folder, models: TextClassification(
        _section(config.TextClassificationConfig, folder, sentence=TEXTS, label=[0.5, 1.5, 3.0]), models["text"](["0"])
    ),
    "token-classification": lambda folder, models: TokenClassification(
        _section(
            config.TokenClassificationConfig,
            folder,
            tokens=[text.split() for text in TEXTS],
            ner_tags=[[TAGS[index % 2] for index, _ in enumerate(text.split())] for text in TEXTS],
        ),
        models["tagger"](TAGS),
    ),
    "multiple-choice": lambda folder, models: MultipleChoice(
        _section(config.MultipleChoiceConfig, folder, context=TEXTS, choices=[["a", "very bad"]] * 3, label=[0, 1, 1]),
        models["chooser"](),
    ),
    "question-answering": lambda folder, models: answering.task(
        folder, answering.write_model(folder / "model", trained=True), answering.ROWS
    ),
    "causal-lm": lambda folder, models: CausalLanguageModeling(
        _section(config.LanguageModelingConfig, folder, text=TEXTS),
        writers.save(folder / "model", writers.opt(), writers.tokenizer(behind="")),
    ),
    "masked-lm": lambda folder, models: MaskedLanguageModeling(
        _section(config.MaskedLanguageModelingConfig, folder, text=TEXTS),
        writers.save(folder / "model", writers.bert()),
    ),
    "summarization": lambda folder, models: Summarization(
        _section(config.SummarizationConfig, folder, document=TEXTS, summary=["a b .", "c d e", "a"]),
        writers.save(folder / "model", writers.bart()),
    ),
    "sentence-embedding": lambda folder, models: SentenceEmbedding(
        _section(config.SentenceEmbeddingConfig, folder, sentence1=TEXTS, sentence2=TEXTS[::-1], score=[0.5, 1, 0.2]),
        _sentences(folder, models),
    ),
    "image-classification": lambda folder, models: ImageClassification(
        config.ImageClassificationConfig(**_pictures(folder)), models["image"]()
    ),
}
IMITATED = {"hidden_states": 0.5, "attention_maps": 0.5}


def _section(kind: Any, folder: Path, **rows: Any) -> Any:
    file = writers.write(folder / "rows.jsonl", **rows)
    return kind(train_file=file, validation_file=file)


def _sentences(folder: Path, models: Models) -> str:
    steps = [Transformer(models["text"](name="base")), Pooling(16), Dense(16, 8), Normalize()]
    SentenceTransformer(modules=steps, device="cpu").save_pretrained(str(folder / "sentences"))
    return str(folder / "sentences")


def _pictures(folder: Path) -> dict[str, Path]:
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "light"])})
    rows = {"image": [Pictures.new("L", (8, 8), shade) for shade in (0, 255)], "label": [0, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(folder / "images.parquet")
    return {"train_file": folder / "images.parquet", "validation_file": folder / "images.parquet"}


@pytest.fixture(autouse=True)
def _ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_those_of_transformers(monkeypatch)


@pytest.fixture
def made(tmp_path, text_model, tagger, chooser, image_model) -> Callable[[str], Task]:
    models = {"text": text_model, "tagger": tagger, "chooser": chooser, "image": image_model}
    return lambda name: TASKS[name](tmp_path, models)


def waits_of_a_step(task: Task, teacher: Teacher) -> list[str]:
    """Of the second step on a device without values: what is sent once and for all has come by then."""
    student, rows = task.load_model(task.source).train(), task.train()
    examples = [{**rows[index], EXAMPLE: index} for index in range(len(rows))]
    batch = send_to_device(noted(task, teacher)(examples), AWAY, non_blocking=True)
    inputs, beside = parted(batch)
    student.to(AWAY)
    with showing_attention(student, teacher):
        for _ in range(2):
            with Waits() as waits:
                outputs = task.forward(student, inputs, **teacher.wanted)
                teacher.loss(outputs, inputs, beside).backward()
    return waits.found


@pytest.mark.parametrize("name", TASKS)
def test_a_taught_step_waits_for_nothing(name: str, made: Callable[[str], Task]):
    task = made(name)
    teacher = Teacher(task.load_model(task.source), task, DistillationSection(**IMITATED))
    teacher.to(AWAY)
    assert waits_of_a_step(task, teacher) == []


@pytest.mark.parametrize("name", ["text-classification", "token-classification", "multiple-choice"])
def test_nor_does_one_of_remembered_lessons(name: str, made: Callable[[str], Task], tmp_path: Path):
    task = made(name)
    teacher = Teacher(task.load_model(task.source), task, DistillationSection(**IMITATED))
    teacher.memory = kept_lessons(teacher, task.train(), tmp_path / "lessons", batch_size=2)
    assert waits_of_a_step(task, teacher) == []
