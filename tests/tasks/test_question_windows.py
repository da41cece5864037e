"""Question answering: the windows of a context, on files made here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from prune_core.errors import RecipeError
from prune_core.tasks.windows import Sizes
from tests.tasks.answering import LETTERS, ROWS, V2, answers_of, predicted, row, sizes, task, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("models") / "trained", trained=True)


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
