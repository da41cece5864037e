"""Summaries and translations: columns, targets, what a decoder reads, generation and its figures."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    BartForConditionalGeneration,
    BartModel,
    EvalPrediction,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
)

from prune_core.distillation.teacher import Teacher
from prune_core.errors import DataError, ModelError, PluginError, RecipeError
from prune_core.tasks.config import SummarizationConfig, TranslationConfig
from prune_core.tasks.sequence_to_sequence import Summarization, Translation, shifted_right
from prune_core.tasks.text_metrics import rouge, translation_scores
from tests.tasks import writers

SOURCES = ["a b c d e f", "c", "d e a ."]
TARGETS = ["a b .", "c d e", "a"]
DATA = Path(os.environ.get("PRUNE_DATA", Path(__file__).parents[2] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here (PRUNE_DATA)")


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return writers.save(tmp_path_factory.mktemp("bart"), writers.bart())


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    prefixes = {"summarization": {"prefix": "a : "}, "translation_en_to_de": {"prefix": "b : "}}
    return writers.save(tmp_path_factory.mktemp("t5"), writers.t5(task_specific_params=prefixes))


@pytest.fixture(params=["bart", "t5"])
def model(request):
    return request.getfixturevalue(request.param)


def summarization(model, folder, document=SOURCES, summary=TARGETS, **others):
    file = writers.write(folder / "s.jsonl", document=document, summary=summary)
    return Summarization(SummarizationConfig(train_file=file, validation_file=file, **others), model)


def translation(model, folder, data, **others):
    file = writers.write(folder / "t.jsonl", **data)
    return Translation(TranslationConfig(train_file=file, validation_file=file, **others), model)


def test_rows_without_a_text_are_left_out_and_told(bart, tmp_path, caplog):
    task = summarization(bart, tmp_path, [*SOURCES, "a b", " "], [TARGETS[0], "", TARGETS[2], "\t \n", "a"])
    assert (len(task.train()), len(task.validation())) == (2, 2)
    assert "s.jsonl: rows with an empty source or target are left out, 3 (row 2 is the first)" in caplog.text
    assert [task.references[row] for row in task.validation()["row"]] == [TARGETS[0], TARGETS[2]]
    with pytest.raises(DataError, match=r"every row has an empty source or target \(row 1 is the first\)"):
        summarization(bart, tmp_path, SOURCES, ["", "", ""])


def texts(task):
    return task.processor.batch_decode(task.train()["input_ids"][:], skip_special_tokens=True)


def test_a_batch_is_all_that_the_model_takes(model, tmp_path):
    task = summarization(model, tmp_path, max_target_length=4)
    assert task.has_trained_head(model)
    dense = task.load_model(model).eval()
    batch = task.collate(list(task.train()))
    assert set(batch) == {"input_ids", "attention_mask", "labels", "decoder_input_ids"}
    assert batch["labels"].tolist()[2] == [1, 5, 2, -100]
    assert batch["labels"].shape == (3, 4)
    assert torch.equal(batch["decoder_input_ids"], dense.prepare_decoder_input_ids_from_labels(batch["labels"]))
    assert set(task.model_inputs(batch)) == set(batch) - {"labels"}
    alone = dense(**task.model_inputs(batch)).logits
    torch.testing.assert_close(alone, dense(**batch).logits)
    loss = torch.nn.functional.cross_entropy(alone.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(loss, dense(**batch).loss)
    assert torch.equal(task.counted(batch), batch["labels"] != -100)


@pytest.mark.parametrize("start", [0, 2])
def test_decoders_start_where_their_family_does(start):
    """Against the models' own: those with a start token, and mBART, whose start is the target's language."""
    sizes = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    common = {"vocab_size": 20, "d_model": 4, **sizes, "encoder_ffn_dim": 4, "decoder_ffn_dim": 4, "pad_token_id": 0}
    labels = torch.tensor([[7, 8, 9, 2, 11], [7, 2, 11, -100, -100]])
    marian = MarianMTModel(MarianConfig(**common, decoder_start_token_id=start))
    mbart = MBartForConditionalGeneration(MBartConfig(**common))
    own = marian.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(shifted_right(labels, start, 0), own)
    assert torch.equal(shifted_right(labels, None, 0), mbart.prepare_decoder_input_ids_from_labels(labels))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "length_penalty": 0.5}])
def test_predictions_are_what_the_model_generates(model, tmp_path, options):
    """Text by text, without padding, by hand."""
    task = summarization(model, tmp_path, max_target_length=6, **options)
    dense = task.load_model(model).eval()
    features = task.validation()
    found, rows = task.predict(dense, task.collate(list(features)))
    assert found.shape == (3, 7)
    assert rows.tolist() == [0, 1, 2]
    for tokens, source in zip(found, SOURCES, strict=True):
        alone = task.processor(task.prefix() + source, return_tensors="pt")
        by_hand = dense.generate(**alone, max_new_tokens=6, **options)[0]
        assert tokens[: len(by_hand)].tolist() == by_hand.tolist()
        assert set(tokens[len(by_hand) :].tolist()) <= {-100, writers.PADDING}


def test_figures_are_of_the_texts_in_any_order(bart, tmp_path):
    """Also of those that the targets' limit cuts."""
    task = summarization(bart, tmp_path, max_target_length=3)
    guesses = ["a b", "c d", "e"]
    tokens = [task.processor(guess)["input_ids"] for guess in guesses]
    padded = np.array([ids + [-100] * (4 - len(ids)) for ids in tokens])
    found = task.metrics(EvalPrediction(padded[[2, 0, 1]], np.array([2, 0, 1])))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(target, guess)[name].fmeasure for target, guess in zip(TARGETS, guesses, strict=True)]
        assert found[name] == pytest.approx(100 * np.mean(each), abs=1e-12)
    assert task.references == TARGETS


def test_a_further_set_has_references_of_its_own(bart, tmp_path):
    further = writers.write(tmp_path / "f.jsonl", document=["f", "e"], summary=["f .", "e ."])
    task = summarization(bart, tmp_path, further_validation={"other": str(further)}, max_validation_samples=2)
    rows = [features["row"][:] for features in (task.validation(), task.further_validation()["other"])]
    assert rows == [[0, 1], [2, 3]]
    assert [task.references[row] for row in rows[1]] == ["f .", "e ."]
    assert "row" not in task.train().column_names


@pytest.mark.parametrize(
    ("source", "target"), [("dialogue", "summary"), ("article", "highlights"), ("text", "summary")]
)
def test_columns_of_summaries_are_found(bart, tmp_path, source, target):
    file = writers.write(tmp_path / "t.jsonl", id=["x"] * 3, **{target: TARGETS, source: SOURCES})
    task = Summarization(SummarizationConfig(train_file=file), bart)
    assert set(texts(task)) < set(SOURCES)  # a tenth is held out


def test_columns_that_are_unclear_are_named(bart, tmp_path):
    file = writers.write(tmp_path / "t.jsonl", dialogue=SOURCES, text=SOURCES, outcome=TARGETS)
    fault = r"several columns could be the source: dialogue, text; .* --column source=NAME"
    with pytest.raises(DataError, match=fault):
        Summarization(SummarizationConfig(train_file=file), bart)
    with pytest.raises(DataError, match=r"no column for the target; found dialogue, text, outcome"):
        Summarization(SummarizationConfig(train_file=file, columns={"source": "text"}), bart)
    with pytest.raises(DataError, match=r"no column 'outcom' for target; did you mean 'outcome'\?"):
        Summarization(SummarizationConfig(train_file=file, columns={"source": "text", "target": "outcom"}), bart)
    with pytest.raises(DataError, match="column 'text' is source and target"):
        Summarization(SummarizationConfig(train_file=file, columns={"source": "text", "target": "text"}), bart)
    columns = {"source": "text", "target": "outcome"}
    assert Summarization(SummarizationConfig(train_file=file, columns=columns), bart).references


PAIR = {"en": SOURCES, "de": TARGETS}
BOTH = {"translation": [{"de": de, "en": en} for de, en in zip(TARGETS, SOURCES, strict=True)]}


@pytest.mark.parametrize("columns", [PAIR, BOTH])
@pytest.mark.parametrize("codes", [("en", "de"), ("en_XX", "de_DE")])
def test_languages_choose_the_columns_and_the_direction(bart, tmp_path, columns, codes):
    task = translation(bart, tmp_path, columns, source_lang=codes[0], target_lang=codes[1])
    assert texts(task) == SOURCES
    assert task.references == TARGETS
    back = translation(bart, tmp_path, columns, source_lang=codes[1], target_lang=codes[0])
    assert texts(back) == TARGETS


def test_roles_choose_the_columns_as_well(bart, tmp_path):
    assert translation(bart, tmp_path, PAIR, columns={"source": "de", "target": "en"}).references == SOURCES


def test_a_direction_that_is_unclear(bart, tmp_path):
    fault = (
        r"which column is the source is unclear; found translation.de, translation.en; .*--set task.source_lang=CODE"
    )
    with pytest.raises(DataError, match=fault):
        translation(bart, tmp_path, BOTH)
    with pytest.raises(DataError, match=r"no column 'fr' for target; found en, de"):
        translation(bart, tmp_path, PAIR, source_lang="en", target_lang="fr")


def test_a_text_that_is_missing_is_named(bart, tmp_path):
    with pytest.raises(DataError, match=r"no target in row 2 \(column 'summary'\)"):
        summarization(bart, tmp_path, summary=["a", None, "b"])


def test_the_prefix_is_the_models_own_or_the_users(bart, t5, tmp_path):
    assert texts(summarization(t5, tmp_path))[1] == "a c"  # ":" is no word of this vocabulary
    assert texts(translation(t5, tmp_path, PAIR, source_lang="en", target_lang="de"))[1] == "b c"
    assert texts(summarization(t5, tmp_path, source_prefix="e "))[1] == "e c"
    assert texts(summarization(t5, tmp_path, source_prefix=""))[1] == "c"
    assert texts(summarization(bart, tmp_path))[1] == "c"


def _mbart():
    words = [(word, 0.0) for word in ("<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b")]
    codes = [(code, 0.0) for code in ("en_XX", "de_DE")]
    words = MBartTokenizer(vocab=[*words, *codes, ("<mask>", 0.0)])
    return words, MBartForConditionalGeneration, MBartConfig, {}


def _nllb():
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b"]
    words = NllbTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    return words, M2M100ForConditionalGeneration, M2M100Config, {"decoder_start_token_id": 2}


@pytest.mark.parametrize(
    ("make", "codes", "first"),
    [(_mbart, ("en_XX", "de_DE"), 0), (_nllb, ("eng_Latn", "deu_Latn"), 1)],
)
def test_a_multilingual_model_writes_the_language_it_is_asked_for(tmp_path, make, codes, first):
    words, build, config, others = make()
    sizes = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 32}
    special = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0}
    model = build(config(vocab_size=len(words), **sizes, **widths, **special, **others))
    folder = writers.save(tmp_path / "model", model, words)
    columns = {"source": "en", "target": "de"}
    source, target = codes
    task = translation(
        folder, tmp_path, PAIR, columns=columns, source_lang=source, target_lang=target, max_target_length=4
    )
    batch = task.collate(list(task.validation()))
    dense = task.load_model(folder).eval()
    wanted = words.convert_tokens_to_ids(target)
    assert (batch["input_ids"] == words.convert_tokens_to_ids(source)).any(dim=1).all()
    assert (batch["labels"] == wanted).any(dim=1).all()
    alone = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}  # the model shifts by itself
    torch.testing.assert_close(dense(**task.model_inputs(batch)).logits, dense(**alone).logits)
    assert set(batch["decoder_input_ids"][:, first].tolist()) == {wanted}
    assert set(task.predict(dense, batch)[0][:, first].tolist()) == {wanted}
    for name, language in (("source_lang", None), ("target_lang", "klingon")):
        languages = {"source_lang": source, "target_lang": target, name: language}
        with pytest.raises(RecipeError, match=rf"task.{name}: .*language.*the model translates between many"):
            translation(folder, tmp_path, PAIR, columns=columns, **languages)


def test_a_checkpoint_of_the_bare_model_gets_a_head(tmp_path):
    folder = writers.save(tmp_path / "bare", BartModel(writers.bart().config))
    task = summarization(folder, tmp_path)
    assert not task.has_trained_head(folder)
    assert type(task.load_model(folder)) is BartForConditionalGeneration


def test_models_that_cannot_write_texts_are_refused(tmp_path, t5):
    bert = writers.save(tmp_path / "bert", writers.bert())
    with pytest.raises(ModelError, match="is a bert, which AutoModelForSeq2SeqLM does not load"):
        summarization(bert, tmp_path)
    mute = writers.save(tmp_path / "mute", writers.bart(), writers.tokenizer(pad=None))
    with pytest.raises(ModelError, match="no padding token"):
        summarization(mute, tmp_path)


def test_the_teachers_states_and_logits_count_where_there_are_tokens(bart, tmp_path):
    """A batch with more padding has the same loss."""
    from prune_core.recipe import DistillationSection

    task = summarization(bart, tmp_path, summary=["a", "b", "c"], document=["a b", "c d", "e f"])
    student, teacher = (task.load_model(bart).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    tutor = Teacher(teacher, task, DistillationSection(hidden_states=1.0))
    batch = task.collate(list(task.train()))
    wide = {
        name: torch.nn.functional.pad(value, (0, 3), value=-100 * (name == "labels")) for name, value in batch.items()
    }
    losses = [tutor.loss(student(**one, output_hidden_states=True), one) for one in (batch, wide)]
    assert losses[0] > 0.01
    torch.testing.assert_close(*losses)


def test_bleu_and_chrf_are_those_of_sacrebleu():
    guesses, targets = (
        ["Ein Mann schläft.", "Zwei Hunde rennen im Gras"],
        ["Ein Mann schläft tief.", "Zwei Hunde rennen."],
    )
    found = translation_scores("de")(guesses, targets)
    assert found["bleu"] == sacrebleu.corpus_bleu(guesses, [targets]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(guesses, [targets]).score
    assert translation_scores("zh")(["我爱北京天安门"], ["我爱北京天安门"])["bleu"] == pytest.approx(100)


def test_rouge_is_that_of_rouge_score():
    guesses = ["The cat sat. It was warm!", "dogs running"]
    targets = ["It was a warm day. The cat sat on a mat.", "A dog runs"]
    found = rouge()(guesses, targets)
    scorer = RougeScorer(list(found), use_stemmer=True)
    lines = [[text.replace(". ", ".\n") for text in side] for side in (targets, guesses)]
    expected = [scorer.score(target, guess) for target, guess in zip(*lines, strict=True)]
    for name, value in found.items():
        assert value == pytest.approx(100 * np.mean([one[name].fmeasure for one in expected]), abs=1e-12)
    assert found["rougeLsum"] > found["rougeL"]


@pytest.mark.parametrize(
    ("make", "library", "module"),
    [
        (rouge, "rouge-score", "rouge_score.rouge_scorer"),
        (partial(translation_scores, "de"), "sacrebleu", "sacrebleu.metrics"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, make, library, module):
    monkeypatch.setitem(sys.modules, module, None)  # as Python marks what cannot be imported
    with pytest.raises(PluginError, match=rf"^{library} is not installed.*pip install 'prune-core\[generation\]'$"):
        make()


@needs_data
def test_real_dialogues(bart):
    section = SummarizationConfig(
        train_file=DATA / "dialogsum-train.parquet",
        validation_file=DATA / "dialogsum-validation.parquet",
        max_train_samples=8,
        max_validation_samples=4,
        max_length=32,
        max_target_length=8,
    )
    task = Summarization(section, bart)
    assert len(task.train()) == 8
    figures = _evaluated(task)
    assert set(figures) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


@needs_data
def test_real_captions(bart):
    section = TranslationConfig(
        train_file=DATA / "multi30k-train.parquet",
        validation_file=DATA / "multi30k-validation.parquet",
        source_lang="en",
        target_lang="de",
        max_validation_samples=4,
        max_target_length=8,
    )
    task = Translation(section, bart)
    assert task.references[1] == "Ein Mann schläft in einem grünen Raum auf einem Sofa."
    assert set(_evaluated(task)) == {"bleu", "chrf"}


def _evaluated(task):
    tokens, rows = task.predict(task.load_model(task.source).eval(), task.collate(list(task.validation())))
    figures = task.metrics(EvalPrediction(tokens.numpy(), rows.numpy()))
    assert all(0 <= value <= 100 for value in figures.values())
    return figures


def test_token_types_are_nothing_for_a_model_that_reads_none(bart, tmp_path):
    """A tokenizer makes them unless it is told otherwise, and generating refuses them."""
    task = summarization(bart, tmp_path, max_target_length=4)
    task.processor.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    task.processor.save_pretrained(tmp_path / "model")
    task.load_model(bart).save_pretrained(tmp_path / "model")
    other = summarization(str(tmp_path / "model"), tmp_path, max_target_length=4)
    batch = other.collate(list(other.validation()))
    assert "token_type_ids" in batch
    predictions, _ = other.predict(other.load_model(bart), batch)
    assert torch.equal(predictions, task.predict(task.load_model(bart), batch)[0][:, : predictions.shape[1]])
