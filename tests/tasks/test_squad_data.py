"""Question answering on real data: SQuAD 1.1, and a SQuAD 2 made of it, against torchmetrics."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    EvalPrediction,
)

from prune_core.tasks.config import QuestionAnsweringConfig
from prune_core.tasks.question_answering import QuestionAnswering
from prune_core.tasks.windows import validation_windows
from tests.tasks.answering import DATA, answers_of, write_model
from tests.tasks.test_squad_scorer import reference


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "trained", trained=True)


def real(name: str, rows: int) -> list[dict]:
    path = DATA / f"squad-{name}.parquet"
    if not path.is_file():
        pytest.skip(f"the real data are not here: {path} (PRUNE_DATA)")
    return pd.read_parquet(path).head(rows).to_dict("records")


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    """SQuAD's first rows, and the same as SQuAD 2.0 would have them: every third without its answer."""
    folder = tmp_path_factory.mktemp("real")
    found = {}
    for split in ("train", "validation"):
        rows = real(split, 60)
        nothing = {"text": np.array([], object), "answer_start": np.array([], int)}
        less = [{**r, "answers": nothing if index % 3 == 0 else r["answers"]} for index, r in enumerate(rows)]
        for name, table in (("v1", rows), ("v2", less)):
            found[name, split] = folder / f"{name}-{split}.parquet"
            pd.DataFrame(table).to_parquet(found[name, split])
    return found


def of_real(real_files, name: str, model: str, **others) -> QuestionAnswering:
    files = {f"{split}_file": real_files[name, split] for split in ("train", "validation")}
    return QuestionAnswering(QuestionAnsweringConfig(**files, **others), model)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> str:
    """A random model that reads 200 letters at once."""
    return write_model(tmp_path_factory.mktemp("models") / "reader", trained=True, length=200, seed=3)


def logits_of(task: QuestionAnswering, model: str) -> EvalPrediction:
    loaded, features = task.load_model(model).eval(), task.validation()
    found = []
    with torch.no_grad():
        for at in range(0, len(features), 64):
            batch = task.collate([features[index] for index in range(at, min(at + 64, len(features)))])
            (start, end), numbers = task.predict(loaded, batch)
            pad = (0, 200 - start.shape[1])
            found.append((*(torch.nn.functional.pad(one, pad, value=-100) for one in (start, end)), numbers))
    start, end, numbers = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return EvalPrediction(predictions=(start, end), label_ids=numbers)


def found_texts(task: QuestionAnswering, prediction: EvalPrediction, files) -> tuple[pd.DataFrame, list[str]]:
    rows = pd.read_parquet(files["v1", "validation"])
    _, spans = task._decoded(prediction)
    places = zip(spans.example, spans.begin, spans.end, strict=True)
    return rows, [rows.context[example][begin:end] for example, begin, end in places]


def test_figures_of_real_predictions_are_those_of_torchmetrics(real_files, reader):
    found = of_real(real_files, "v1", reader)
    prediction = logits_of(found, reader)
    rows, texts = found_texts(found, prediction, real_files)
    assert len(texts) == len(rows)
    assert all(texts)
    expected = reference(texts, [list(answers["text"]) for answers in rows.answers])
    assert found.metrics(prediction) == pytest.approx(expected, abs=1e-9)


def test_squad_2_made_of_squad_1(real_files, reader):
    """No answer is right for a third. With every question answered, the others score as in SQuAD 1.1."""
    two, one = of_real(real_files, "v2", reader, null_threshold=1e9), of_real(real_files, "v1", reader)
    assert two.unanswerable
    prediction = logits_of(two, reader)
    figures = two.metrics(prediction)
    kept = np.arange(60) % 3 != 0
    rows, texts = found_texts(one, prediction, real_files)
    golds = [list(answers["text"]) for answers in rows.answers]
    expected = reference(
        [t for t, k in zip(texts, kept, strict=True) if k], [g for g, k in zip(golds, kept, strict=True) if k]
    )
    assert figures["has_answer_f1"] == pytest.approx(expected["f1"], abs=1e-9)
    assert figures["no_answer_f1"] == 0
    assert figures["f1"] == pytest.approx(expected["f1"] * 2 / 3, abs=1e-9)
    assert figures["best_f1"] >= max(figures["f1"], 100 / 3) - 1e-9
    best = of_real(real_files, "v2", reader, null_threshold=figures["best_f1_threshold"])
    assert best.metrics(prediction)["f1"] == pytest.approx(figures["best_f1"], abs=1e-9)


def test_real_answers_are_found_in_their_windows(real_files, reader):
    found = of_real(real_files, "v1", reader)
    rows = pd.read_parquet(real_files["v1", "train"])
    opens = found._windows(found._train, validation_windows)["opens"]
    example = np.cumsum(opens[:]) - 1
    labels = answers_of(found, found.train())
    fits = 0
    for number, answers in enumerate(rows.answers):
        answer = "".join(answers["text"][0].split())
        if len(answer) <= found.sizes.stride:
            fits += 1
            mine = {labels[index] for index in np.flatnonzero(example == number)} - {""}
            assert len(mine) == 1, number
    assert fits > 50
