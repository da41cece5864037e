"""Models that know several languages: which one they read, and which one they begin to write."""

from typing import Any

from transformers import PreTrainedConfig

from prune_core.errors import RecipeError, nearest

STARTS_WITH_LANGUAGE = ("mbart", "plbart")
"""Model types whose decoder starts with the last token of its text, the language."""


def family(language: str) -> str:
    """A language without country and script: en of en_XX."""
    return language.partition("_")[0]


def set_languages(tokenizer: Any, source: str | None, target: str | None) -> None:
    """Tell a multilingual tokenizer what it reads; RecipeError for a language that is missing or that it lacks."""
    if not _is_multilingual(tokenizer):
        return
    for field, language in (("source_lang", source), ("target_lang", target)):
        if language is None or _code(tokenizer, language) in (None, tokenizer.unk_token_id):
            tokens = getattr(tokenizer, "lang_code_to_id", None) or tokenizer.all_special_tokens
            known = [token for token in tokens if not token.startswith("<")]
            found = "no language" if language is None else f"unknown language {language!r}"
            raise RecipeError(
                f"task.{field}: {found}; {nearest(language or '', known)}"
                f"the model translates between many, such as {', '.join(known[:5])}"
            )
    tokenizer.src_lang, tokenizer.tgt_lang = source, target


def first_tokens(tokenizer: Any, config: PreTrainedConfig) -> dict[str, int]:
    """What a multilingual model begins a text with, as a generation configuration has it; nothing for others."""
    if not _is_multilingual(tokenizer):
        return {}
    code = _code(tokenizer, tokenizer.tgt_lang or tokenizer.src_lang)
    ends = config.model_type in STARTS_WITH_LANGUAGE and tokenizer(text_target=["a"])["input_ids"][0][-1] == code
    return {"decoder_start_token_id" if ends else "forced_bos_token_id": code}


def _is_multilingual(tokenizer: Any) -> bool:
    return hasattr(type(tokenizer), "src_lang")


def _code(tokenizer: Any, language: str) -> Any:
    """The id of a language's token; None, or that of the unknown token, where there is none."""
    codes = getattr(tokenizer, "lang_code_to_id", None)
    return codes.get(language) if codes else tokenizer.convert_tokens_to_ids(language)
