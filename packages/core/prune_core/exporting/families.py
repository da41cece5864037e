"""Which families go to which format, as the tests of exports find them (tests/exporting)."""

from prune_core.exporting.formats import FORMATS

FAMILIES: frozenset[str] = frozenset(
    (
        *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet"),
        *("roberta", "xlm-roberta"),
        *("bart", "marian", "mbart", "pegasus", "t5", "whisper"),
        *("gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "phi3", "qwen2", "qwen3"),
        *("clip", "clip_text_model", "clip_vision_model", "deit", "dinov2", "swin", "vit"),
        *("hubert", "wav2vec2"),
    )
)
"""Model types that are tested: each works in all formats. Of those that are described gemma3 alone does not."""


def supported(model_type: str, format: str) -> bool:
    """Whether tests show that compact models of a type compute the same in a format."""
    return model_type in FAMILIES and format in FORMATS
