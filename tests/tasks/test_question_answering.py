"""Question answering: columns, windows, labels, distillation and figures, on files made here; a run from end to end."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertTokenizerFast,
    EvalPrediction,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from prune_core.configuring import validated
from prune_core.errors import DataError, ModelError, RecipeError
from prune_core.recipe import DistillationSection
from prune_core.run import evaluate_folder, run
from prune_core.tasks.config import QuestionAnsweringConfig
from prune_core.tasks.data import Table
from prune_core.tasks.question_answering import QuestionAnswering
from prune_core.tasks.windows import Sizes, validation_windows
from prune_core.teacher import Teacher
from prune_core.verify import verify_run
from tests.tasks.test_squad_scorer import reference

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.?"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CONTEXT = "eve lives in bern. bob lives in rome and has a dog."
DATA = Path(os.environ.get("PRUNE_DATA", Path(__file__).parents[2] / "../shared/data"))


def bert_tokenizer(length: int = 32) -> PreTrainedTokenizerFast:
    """A token a letter."""
    words = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=words, model_max_length=length)


def sizes(length: int = 32) -> dict:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return {**shape, "vocab_size": len(WORDS), "max_position_embeddings": length}


def write_model(folder: Path, *, trained: bool = False, length: int = 32, seed: int = 0) -> str:
    torch.manual_seed(seed)
    kind = BertForQuestionAnswering if trained else BertForMaskedLM
    kind(BertConfig(**sizes(length))).save_pretrained(folder)
    bert_tokenizer(length).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "trained", trained=True)


def row(question: str, answer: str | None, context: str = CONTEXT, **others) -> dict:
    starts = [] if answer is None else [context.index(answer)]
    answers = {"text": [] if answer is None else [answer], "answer_start": starts}
    return {"id": question, "question": question, "context": context, "answers": answers, **others}


ROWS = [row("where is eve?", "bern"), row("where is bob?", "rome"), row("who has a dog?", "bob")]
V2 = [*ROWS, row("who has a cat?", None)]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def task(folder: Path, model: str, train: list[dict], validation: list[dict] | None = None, **others):
    files = {
        "train_file": write(folder / "t.jsonl", train),
        "validation_file": write(folder / "v.jsonl", validation or train),
    }
    return QuestionAnswering(QuestionAnsweringConfig(**files, **others), model)


def answers_of(task: QuestionAnswering, features) -> list[list[str]]:
    """What each window's labels stand for, in letters; "" where they are the token for no answer."""
    found = []
    for window in features:
        first, last = window["start_positions"], window["end_positions"]
        letters = task.processor.convert_ids_to_tokens(window["input_ids"][first : last + 1])
        found.append("" if first == 0 else "".join(letter.removeprefix("##") for letter in letters))
    return found


def predicted(task: QuestionAnswering, labelled: Table | None = None) -> EvalPrediction:
    """Logits that point where the labels of the validation rows do, or those of a table of as many windows."""
    features = task.validation()
    width = max(len(ids) for ids in features["input_ids"])
    start, end = (np.full((len(features), width), -1.0, np.float32) for _ in "se")
    for index, window in enumerate(task.features(labelled or task._validation)):
        start[index, window["start_positions"]] = end[index, window["end_positions"]] = 3.0
    return EvalPrediction(predictions=(start, end), label_ids=np.array(features["window"]))


# --- reading


def test_the_columns_have_their_own_names_by_default(tmp_path, model):
    found = task(tmp_path, model, ROWS)
    assert (found.metric, found.unanswerable) == ("f1", False)
    features = found.train()
    assert set(features.column_names) == {
        *("input_ids", "token_type_ids", "attention_mask", "start_positions", "end_positions")
    }


def as_lists(r: dict) -> dict:
    return {**r, "answers": r["answers"]["text"], "answer_start": r["answers"]["answer_start"]}


def as_list_of_both(r: dict) -> dict:
    pairs = zip(r["answers"]["text"], r["answers"]["answer_start"], strict=True)
    return {**r, "answers": [{"text": text, "answer_start": start} for text, start in pairs]}


def as_text(r: dict) -> dict:
    return {**r, "answers": r["answers"]["text"][0], "answer_start": r["answers"]["answer_start"][0]}


@pytest.mark.parametrize("form", [as_lists, as_list_of_both, as_text])
def test_answers_in_any_form_give_the_same_features(tmp_path, model, form):
    expected, found = (task(tmp_path, model, rows).train() for rows in (ROWS, [form(r) for r in ROWS]))
    assert list(found) == list(expected)


def test_columns_of_other_names(tmp_path, model):
    names = {"id": "key", "context": "passage", "question": "query", "answers": "gold", "answer_start": "at"}
    rows = [{names[key]: value for key, value in as_text(r).items()} for r in ROWS]
    assert list(task(tmp_path, model, rows, columns=names).train()) == list(task(tmp_path, model, ROWS).train())


def test_a_csv_with_plain_answers_and_empty_cells(tmp_path, model):
    rows = [as_text(r) for r in ROWS] + [{**V2[-1], "answers": None, "answer_start": None}]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    section = QuestionAnsweringConfig(train_file=tmp_path / "t.csv", validation_file=tmp_path / "t.csv")
    found = QuestionAnswering(section, model)
    assert found.unanswerable
    assert set(answers_of(found, found.train())) == {"", "bern", "rome", "bob"}


FAULTS = {
    "a start that is wrong": (
        [ROWS[0], {**ROWS[1], "answers": {"text": ["rome"], "answer_start": [3]}}],
        {},
        r"t\.jsonl: row 2 \(id where is bob\?\).*'rome' is not at character 3, there is ' liv'",
    ),
    "a start before the text": (
        [{**ROWS[0], "answers": {"text": ["bern"], "answer_start": [-4]}}],
        {},
        "row 1 .*not at character -4",
    ),
    "no start": ([{**ROWS[0], "answers": "bern"}], {}, "'bern' has no start; .*--column answer_start=NAME"),
    "a start that is a text": ([{**as_text(ROWS[0]), "answer_start": "x"}], {}, "row 1 .*number of characters"),
    "fewer starts": (
        [{**ROWS[0], "answers": {"text": ["bern", "bern"], "answer_start": [13]}}],
        {},
        "row 1 .*2 answers have 1 starts",
    ),
    "answers that are numbers": ([{**ROWS[0], "answers": 7}], {}, "row 1 .*found 7"),
    "no answer where there must be one": (V2, {"unanswerable": False}, r"row 4 .*no answer.*task\.unanswerable=true"),
    "no answer at all": ([V2[-1]], {}, "no row has an answer"),
    "another column": ([{"passage": CONTEXT, "question": "q", "answers": "a"}], {}, "no column 'context'"),
    "another role": (ROWS, {"columns": {"contxt": "context"}}, "did you mean 'context'"),
    "a context that is no text": ([{**ROWS[0], "context": 3}], {}, "context must be strings"),
    "a question that is missing": ([ROWS[0], {**ROWS[1], "question": None}], {}, "no question in row 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_file_and_row(tmp_path, model, fault):
    rows, options, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        task(tmp_path, model, rows, **options)


def test_scores_need_no_position(tmp_path, model):
    golds = [["BERN!", "in the capital"], ["Rome"], ["the bob"]]
    validation = [
        {**r, "answers": {"text": gold, "answer_start": [0] * len(gold)}} for r, gold in zip(ROWS, golds, strict=True)
    ]
    found = task(tmp_path, model, ROWS, validation)
    assert found.metrics(predicted(found, found._train)) == {"f1": 100.0, "exact_match": 100.0}


def test_a_figure_that_is_not_measured(tmp_path, model):
    with pytest.raises(RecipeError, match="measures f1, exact_match"):
        task(tmp_path, model, ROWS, metric="best_f1")
    assert task(tmp_path, model, V2, metric="best_f1").metric == "best_f1"


def test_a_tokenizer_without_characters_is_refused(tmp_path, model):
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**sizes())).save_pretrained(tmp_path / "slow")
    (tmp_path / "slow" / "vocab.json").write_text(json.dumps({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "a": 4}))
    config = {"tokenizer_class": "CTRLTokenizer"}
    (tmp_path / "slow" / "merges.txt").write_text("#version: 0.2\na a</w>\n")
    (tmp_path / "slow" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="CTRLTokenizer is no fast tokenizer"):
        task(tmp_path, str(tmp_path / "slow"), ROWS)


# --- windows


def test_the_answer_is_where_the_labels_point(tmp_path, model):
    found = task(tmp_path, model, V2)
    assert set(answers_of(found, found.train())) == {"", "bern", "rome", "bob"}


@st.composite
def examples(draw):
    words = draw(st.lists(st.text(LETTERS[:6], min_size=1, max_size=5), min_size=1, max_size=25))
    gap = draw(st.sampled_from([" ", "  ", " \n"]))
    context = gap.join(words)
    first = draw(st.integers(0, len(words) - 1))
    begin = len(gap.join(words[:first])) + (len(gap) if first else 0)
    answer = words[first]
    return context, answer, begin


@settings(max_examples=10)
@given(st.lists(examples(), min_size=1, max_size=4), st.integers(5, 8), st.integers(16, 32))
def test_some_window_holds_every_answer_and_all_hold_the_whole_context(tmp_path_factory, model, rows, stride, length):
    """Of an answer that is no longer than what neighbours share, and whatever the lengths."""
    folder = tmp_path_factory.mktemp("windows")
    table = [{"question": "abc?", "context": c, "answers": {"text": [a], "answer_start": [at]}} for c, a, at in rows]
    found = task(folder, model, table, max_length=length, stride=stride)
    assert found.sizes.stride == min(stride, (length - 3 - found.sizes.question) // 2)
    windows = found._judged[""].windows
    example = np.cumsum(windows["opens"][:]) - 1
    labels = answers_of(found, found.train())
    for number, (context, answer, _) in enumerate(rows):
        mine = [index for index in range(len(windows)) if example[index] == number]
        covered = {
            place
            for index in mine
            for b, e in zip(windows[index]["begin"], windows[index]["end"], strict=True)
            if b >= 0
            for place in range(b, e)
        }
        assert covered == {place for place, letter in enumerate(context) if not letter.isspace()}
        if len(answer) <= found.sizes.stride:
            assert answer in {labels[index] for index in mine}
        assert {labels[index] for index in mine} <= {"", answer}
        assert all(len(windows[index]["input_ids"]) <= length for index in mine)


@given(st.integers(1, 600), st.integers(0, 600), st.integers(1, 600), st.integers(2, 4))
def test_windows_always_move_on(window, stride, question, specials):
    if window < specials + 2:
        with pytest.raises(RecipeError, match=f"{specials + 2} at least"):
            Sizes.fitting(window, stride, question, specials)
        return
    found = Sizes.fitting(window, stride, question, specials)
    context = window - specials - found.question
    assert 1 <= found.question <= question
    assert 0 <= found.stride <= min(stride, context // 2)
    assert context > found.stride


def test_a_question_longer_than_the_window_is_cut(tmp_path, model):
    long = "why " * 100 + "?"
    found = task(tmp_path, model, [row(long, "bern"), ROWS[1]])
    assert max(map(len, found.train()["input_ids"])) <= 32
    assert "bern" in answers_of(found, found.train())
    first = found.processor.decode(found.train()[0]["input_ids"]).partition("[SEP]")[0]
    assert first.removeprefix("[CLS]").replace(" ", "") == ("why" * 5)[: found.sizes.question]


def test_questions_and_contexts_without_words(tmp_path, model):
    rows = [*ROWS, row("", "rome"), {**row("what?", None), "context": ""}, {**row("", None), "context": "  "}]
    found = task(tmp_path, model, rows)
    assert found.metrics(predicted(found))["f1"] == pytest.approx(100.0)


def test_roberta_has_no_token_types(tmp_path):
    torch.manual_seed(0)
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary = {**special, **{letter: index for index, letter in enumerate("Ġ" + LETTERS, len(special))}}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    marks = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"], **marks
    )
    config = RobertaConfig(**{**sizes(), "vocab_size": len(vocabulary)})
    RobertaForQuestionAnswering(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    found = task(tmp_path, str(tmp_path / "roberta"), V2)
    assert found.sizes.window == 30
    batch = found.collate(list(found.train()))
    assert "token_type_ids" not in batch
    outputs = found.load_model(str(tmp_path / "roberta"))(**batch)
    assert torch.isfinite(outputs.loss)
    taught = found.taught(outputs, batch)["start"][0]
    kept = found.processor.convert_ids_to_tokens(batch["input_ids"][0][taught > -1e4])
    whole = found.processor.convert_ids_to_tokens(batch["input_ids"][0])
    assert kept == ["<s>", *(token for token in whole[whole.index("</s>") + 2 :] if token not in ("</s>", "<pad>"))]
    assert found.metrics(predicted(found))["f1"] == pytest.approx(100.0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_pads_or_cuts_on_the_left_changes_nothing(tmp_path, model, side):
    found = task(tmp_path, model, V2)
    found.processor.padding_side = found.processor.truncation_side = side
    batch = found.collate(list(found.train())[:6])
    assert (batch["input_ids"][:, 0] == 2).all()
    assert found.processor.padding_side == side
    assert set(answers_of(found, found.train())) == {"", "bern", "rome", "bob"}
    assert found.metrics(predicted(found))["f1"] == pytest.approx(100.0)


# --- figures


def test_labels_as_predictions_are_all_right(tmp_path, model):
    assert task(tmp_path, model, ROWS).metrics(predicted(task(tmp_path, model, ROWS))) == {
        "f1": 100.0,
        "exact_match": 100.0,
    }
    found = task(tmp_path, model, V2)
    figures = found.metrics(predicted(found))
    assert figures["f1"] == figures["no_answer_f1"] == figures["has_answer_f1"] == figures["best_f1"] == 100.0


def test_a_null_threshold_decides_what_is_withheld(tmp_path, model):
    always, never = (task(tmp_path, model, V2, null_threshold=value) for value in (-1e9, 1e9))
    figures = always.metrics(predicted(always))
    assert (figures["has_answer_f1"], figures["no_answer_f1"]) == (0.0, 100.0)
    figures = never.metrics(predicted(never))
    assert (figures["has_answer_f1"], figures["no_answer_f1"]) == (100.0, 0.0)
    assert figures["best_f1"] == 100.0


@pytest.fixture(scope="module")
def with_v2(tmp_path_factory, model) -> QuestionAnswering:
    return task(tmp_path_factory.mktemp("v2"), model, V2)


@given(st.randoms())
def test_no_order_of_batches_matters_nor_what_comes_twice(with_v2, draw):
    found = with_v2
    numbers = np.array(found.validation()["window"])
    random = np.random.default_rng(draw.randrange(1000))
    start, end = (random.normal(size=(len(numbers), 32)).astype(np.float32) for _ in "se")
    expected = found.metrics(EvalPrediction(predictions=(start, end), label_ids=numbers))
    order = [*draw.sample(range(len(numbers)), len(numbers)), draw.randrange(len(numbers))]
    other = found.metrics(EvalPrediction(predictions=(start[order], end[order]), label_ids=numbers[order]))
    assert other == expected


def test_a_further_set_is_judged_by_its_own_rows(tmp_path, model):
    other = write(tmp_path / "other.jsonl", [row("who lives in rome?", "bob lives"), row("which pet?", "dog")])
    found = task(tmp_path, model, ROWS, further_validation={"other": str(other)})
    features = found.further_validation()["other"]
    assert not set(features["window"]) & set(found.validation()["window"])
    first = [
        window["begin"].index(CONTEXT.index("dog")) if CONTEXT.index("dog") in window["begin"] else 0
        for window in found._judged["other"].windows
    ]
    start = np.zeros((len(features), 32), np.float32)
    end = start.copy()
    for index, token in enumerate(first):
        if token:
            start[index, token] = end[index, token + 2] = 9
    figures = found.metrics(EvalPrediction(predictions=(start, end), label_ids=np.array(features["window"])))
    assert figures == {"f1": 50.0, "exact_match": 50.0}


# --- models


def test_a_new_head_has_a_start_and_an_end(tmp_path, model, trained):
    found = task(tmp_path, model, ROWS)
    assert found.load_model(model).config.num_labels == 2
    assert not found.has_trained_head(model)
    assert found.has_trained_head(trained)


def test_a_teacher_is_imitated_on_the_context_alone(tmp_path, trained):
    """The loss is T^2 KL over the tokens of the context and the one for no answer, mean of starts and ends."""
    found = task(tmp_path, trained, V2)
    other = write_model(tmp_path / "other", trained=True, seed=1)
    student, other = (found.load_model(path).double() for path in (trained, other))
    teacher = Teacher(other, found, DistillationSection(temperature=2.0, cross_entropy=0, logits=1, hidden_states=0))
    features = list(found.train())
    batch = found.collate([features[0], features[-1]])
    student.eval()
    outputs = student(**batch)
    loss = teacher.loss(outputs, batch)
    with torch.no_grad():
        theirs = other(**found.model_inputs(batch))
    expected = []
    for mine, their in ((outputs.start_logits, theirs.start_logits), (outputs.end_logits, theirs.end_logits)):
        for index in range(2):
            ids, types = batch["input_ids"][index], batch["token_type_ids"][index]
            keep = ((types == 1) & (ids != 3) & batch["attention_mask"][index].bool()) | (ids == 2)
            p, q = (torch.log_softmax(one[index][keep] / 2, 0) for one in (their, mine))
            expected.append(4 * (p.exp() * (p - q)).sum())
    assert float(loss.detach()) == pytest.approx(float(torch.stack(expected).mean().detach()), rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def recipe(folder: Path, model: str, rows: list[dict], **others) -> dict:
    files = {
        "train_file": str(write(folder / "t.jsonl", rows)),
        "validation_file": str(write(folder / "v.jsonl", rows)),
    }
    return {
        "model": model,
        "task": {"name": "question-answering", **files},
        "strategy": {"name": "structured", "density": 0.5},
        "training": {"max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
        "measure": {"batch_size": 1, "length": 384, "rounds": 3},
        "device": "cpu",
        "output": str(folder / "run"),
        **others,
    }


def test_a_run_from_end_to_end(tmp_path, trained):
    """With the dense model as teacher; what it leaves is verified and evaluated again."""
    manifest = run(validated(recipe(tmp_path, trained, V2)))
    assert manifest["teacher"] == "self"
    assert manifest["metric"]["name"] == "f1"
    assert {"best_f1", "no_answer_f1", "has_answer_exact_match"} <= manifest["metrics"]["pruned"].keys()
    assert manifest["verification"]["passed"]
    assert verify_run(tmp_path / "run").passed
    section = validated(recipe(tmp_path, trained, V2)).task
    found = evaluate_folder(str(tmp_path / "run" / "model"), section, device="cpu")
    assert found == pytest.approx(manifest["metrics"]["pruned"])


def test_training_learns_to_answer(tmp_path, model):
    """An answer is the one word in digits: what no untrained model finds."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(60):
        words = ["".join(draw.choice(list("abc"), 3)) for _ in range(4)]
        words[draw.integers(4)] = answer = "".join(draw.choice(list("0123"), 2))
        rows.append(row(f"q{number}", answer, " ".join(words)))
    training = {"max_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "logging_steps": 20}
    options = {"training": training, "strategy": {"name": "structured", "density": 0.9}}
    manifest = run(validated(recipe(tmp_path, model, rows, **options)))
    assert manifest["metrics"]["pruned"]["f1"] > 80


PRESETS = {"squad": ("rajpurkar/squad", None), "squad_v2": ("rajpurkar/squad_v2", True)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_all_but_the_model(name, tmp_path, monkeypatch, model):
    found = validated({"model": "bert-base-uncased", "task": name})
    assert (found.task.dataset, found.task.unanswerable) == PRESETS[name]
    assert (found.task.max_length, found.task.stride, found.measure.length) == (384, 128, 384)
    assert (found.training.batch_size, found.training.learning_rate) == (16, 3e-5)
    for split in ("train", "validation"):
        pd.DataFrame(V2 if name == "squad_v2" else ROWS).to_parquet(tmp_path / f"{name}-{split}.parquet")
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    assert QuestionAnswering(found.task, model).unanswerable == (name == "squad_v2")


# --- real data


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
