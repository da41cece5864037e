"""A reader of letters, its data and its predictions, for the tests of question answering."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertTokenizerFast,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from prune_core.tasks.config import QuestionAnsweringConfig
from prune_core.tasks.data import Table
from prune_core.tasks.question_answering import QuestionAnswering

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
