"""Figures of generated texts, by the libraries that papers use: they come with the extra prune-core[generation]."""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prune_core.errors import PluginError, RecipeError, brief

Scorer = Callable[[Sequence[str], Sequence[str]], dict[str, float]]
"""Figures of predictions and their references, one each."""

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TRANSLATION = ("bleu", "chrf")


def rouge() -> Scorer:
    """Mean F-measures of ROUGE-1, -2, -L and -Lsum times 100, with stemming (Lin, W04-1013).

    For rougeLsum a line is a sentence: texts are broken behind . ! and ?. PluginError without rouge-score.
    """
    scorer = _import("rouge_score.rouge_scorer", "rouge-score").RougeScorer(ROUGE, use_stemmer=True)

    def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        pairs = zip(references, predictions, strict=True)
        found = [scorer.score(_sentences(target), _sentences(guess)) for target, guess in pairs]
        return {name: 100 * float(np.mean([one[name].fmeasure for one in found])) for name in ROUGE}

    return score


def translation_scores(language: str | None) -> Scorer:
    """BLEU (P02-1040) and chrF (W15-3049) of the corpus as sacrebleu counts them, 0 to 100.

    Chinese, Japanese and Korean have their own words: RecipeError where their tokenizer is not installed. PluginError
    without sacrebleu.
    """
    sacrebleu = _import("sacrebleu.metrics", "sacrebleu")
    try:
        bleu = sacrebleu.BLEU(trg_lang=language or "")
    except (RuntimeError, ImportError) as error:
        raise RecipeError(f"task.target_lang: BLEU cannot count words of {language!r}: {brief(error)}") from error
    chrf = sacrebleu.CHRF()

    def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        figures = {"bleu": bleu, "chrf": chrf}
        return {name: float(figure.corpus_score(predictions, [references]).score) for name, figure in figures.items()}

    return score


def _sentences(text: str) -> str:
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


def _import(module: str, library: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(
            f"{library} is not installed, which judges generated texts: pip install 'prune-core[generation]'"
        ) from error
