"""Tasks that are another one on the data of a benchmark, with that benchmark's figure and sensible training."""

from typing import Any

from prune_core.hookspecs import TaskSpec

GLUE = "nyu-mll/glue"

TOKEN_CLASSIFICATION: dict[str, Any] = {
    "target": "prune_core.tasks.token_classification:TokenClassification",
    "config": "prune_core.tasks.config:TokenClassificationConfig",
}
MULTIPLE_CHOICE: dict[str, Any] = {
    "target": "prune_core.tasks.multiple_choice:MultipleChoice",
    "config": "prune_core.tasks.config:MultipleChoiceConfig",
}
SENTENCE_EMBEDDING: dict[str, Any] = {
    "target": "prune_core.tasks.sentence_embedding:SentenceEmbedding",
    "config": "prune_core.tasks.config:SentenceEmbeddingConfig",
}

_TRAINING: dict[str, Any] = {"epochs": 6.0, "learning_rate": 5e-5, "batch_size": 32}
"""Of a small set: pruning takes a few passes to settle."""
_LARGE: dict[str, Any] = {"epochs": 4.0, "learning_rate": 3e-5, "batch_size": 32}
GENERATION: dict[str, Any] = {"epochs": 3.0, "learning_rate": 5e-5, "batch_size": 16, "eval_batch_size": 16}
"""Of a model that writes texts: evaluation generates, several beams an example."""
LANGUAGE_MODELING: dict[str, Any] = {"epochs": 3.0, "learning_rate": 5e-5, "batch_size": 8, "eval_batch_size": 8}
"""Of long blocks, each token with a logit for every word."""


def _glue(name: str, summary: str, columns: dict[str, str], training: dict[str, Any], **task: Any) -> TaskSpec:
    data = {"dataset": GLUE, "dataset_config": name, "columns": {**columns, "label": "label"}}
    return TaskSpec(
        name=name,
        summary=summary,
        target="prune_core.tasks.text_classification:TextClassification",
        config="prune_core.tasks.config:TextClassificationConfig",
        defaults={"task": {**data, **task}, "training": training},
    )


def _pair(one: str, other: str) -> dict[str, str]:
    return {"text": one, "text_pair": other}


_SENTENCES = _pair("sentence1", "sentence2")

GLUE_TASKS = [
    _glue("cola", "GLUE: is it grammatical (Matthews)", {"text": "sentence"}, _TRAINING, metric="matthews"),
    _glue("sst2", "GLUE: sentiment of a sentence (accuracy)", {"text": "sentence"}, _LARGE),
    _glue("mrpc", "GLUE: is it a paraphrase (F1, accuracy)", _SENTENCES, _TRAINING, metric="f1"),
    _glue("qqp", "GLUE: is it the same question (F1, accuracy)", _pair("question1", "question2"), _LARGE, metric="f1"),
    _glue("stsb", "GLUE: similarity of sentences (Pearson, Spearman)", _SENTENCES, _TRAINING, regression=True),
    _glue(
        "mnli",
        "GLUE: does one sentence follow from the other (accuracy, matched and mismatched)",
        _pair("premise", "hypothesis"),
        _LARGE,
        validation_split="validation_matched",
        further_validation={"mismatched": "validation_mismatched"},
    ),
    _glue("qnli", "GLUE: does the sentence answer the question (accuracy)", _pair("question", "sentence"), _LARGE),
    _glue("rte", "GLUE: does one sentence follow from the other (accuracy)", _SENTENCES, _TRAINING),
    _glue("wnli", "GLUE: what does the pronoun refer to (accuracy)", _SENTENCES, _TRAINING),
]

WORD_AND_CHOICE_TASKS = [
    TaskSpec(
        name="conll2003",
        summary="CoNLL-2003: names of persons, places, organizations (F1 of spans)",
        defaults={
            "task": {
                "dataset": "lhoestq/conll2003",
                "columns": {"tokens": "tokens", "tags": "ner_tags"},
                "max_length": 256,  # the longest sentences have more words than others have tokens
            },
            "training": _TRAINING,
        },
        **TOKEN_CLASSIFICATION,
    ),
    TaskSpec(
        name="swag",
        summary="SWAG: how a scene goes on, of four endings (accuracy)",
        defaults={
            "task": {
                "dataset": "allenai/swag",
                "dataset_config": "regular",
                "columns": {
                    "context": "sent1",
                    "question": "sent2",
                    "choices": "ending0,ending1,ending2,ending3",
                    "label": "label",
                },
            },
            "training": {**_LARGE, "batch_size": 16},  # four texts a row
        },
        **MULTIPLE_CHOICE,
    ),
]

_SPANS: dict[str, Any] = {
    "training": {"epochs": 10.0, "learning_rate": 3e-5, "batch_size": 16},
    "measure": {"length": 384},
}


def _squad(name: str, summary: str, **task: Any) -> TaskSpec:
    return TaskSpec(
        name=name,
        summary=summary,
        target="prune_core.tasks.question_answering:QuestionAnswering",
        config="prune_core.tasks.config:QuestionAnsweringConfig",
        defaults={"task": task, **_SPANS},
    )


SQUAD_TASKS = [
    _squad("question-answering", "the answer to a question, a span of a text, or none"),
    _squad("squad", "SQuAD 1.1: every question has an answer (F1, exact match)", dataset="rajpurkar/squad"),
    _squad(
        "squad_v2",
        "SQuAD 2.0: some questions have no answer (F1, exact match)",
        dataset="rajpurkar/squad_v2",
        unanswerable=True,
    ),
]


def _summaries(name: str, summary: str, dataset: str, **task: Any) -> TaskSpec:
    return TaskSpec(
        name=name,
        summary=summary,
        target="prune_core.tasks.sequence_to_sequence:Summarization",
        config="prune_core.tasks.config:SummarizationConfig",
        defaults={"task": {"dataset": dataset, **task}, "training": GENERATION},
    )


GENERATION_TASKS = [
    _summaries(
        "cnn_dailymail",
        "highlights of a news article (ROUGE)",
        "abisee/cnn_dailymail",
        dataset_config="3.0.0",
        max_length=1024,
        max_target_length=142,
    ),
    _summaries(
        "xsum",
        "one sentence on a news article (ROUGE)",
        "EdinburghNLP/xsum",
        max_length=1024,
        max_target_length=62,
    ),
    _summaries("dialogsum", "summary of a dialogue (ROUGE)", "knkarthick/dialogsum", max_length=1024),
    TaskSpec(
        name="multi30k",
        summary="captions of images from English to German (BLEU, chrF)",
        target="prune_core.tasks.sequence_to_sequence:Translation",
        config="prune_core.tasks.config:TranslationConfig",
        defaults={
            "task": {
                "dataset": "bentrevett/multi30k",
                "source_lang": "en",
                "target_lang": "de",
                "max_length": 64,
                "max_target_length": 64,
            },
            "training": {**GENERATION, "batch_size": 32, "eval_batch_size": 32},
        },
    ),
]

OTHER_TASKS = [
    TaskSpec(
        name="wikitext2",
        summary="the next token of Wikipedia's good articles (perplexity)",
        target="prune_core.tasks.language_modeling:CausalLanguageModeling",
        config="prune_core.tasks.config:LanguageModelingConfig",
        defaults={
            "task": {"dataset": "Salesforce/wikitext", "dataset_config": "wikitext-2-raw-v1", "separator": "\n\n"},
            "training": LANGUAGE_MODELING,
        },
    ),
    TaskSpec(
        name="cifar10",
        summary="what a small image shows, ten classes (accuracy)",
        target="prune_core.tasks.image_classification:ImageClassification",
        config="prune_core.tasks.config:ImageClassificationConfig",
        defaults={"task": {"dataset": "uoft-cs/cifar10", "validation_split": "test"}, "training": _LARGE},
    ),
]

EMBEDDING_TASKS = [
    TaskSpec(
        name="stsb-embeddings",
        summary="STS benchmark: are the embeddings of like sentences alike (Spearman)",
        defaults={
            "task": {"dataset": "sentence-transformers/stsb", "columns": _SENTENCES},
            "training": {"epochs": 6.0, "learning_rate": 1e-4, "batch_size": 32},
        },
        **SENTENCE_EMBEDDING,
    )
]
