"""Whisper: BART's layers over sounds; an adapter, since generation reads the caches of cross-attention."""

from dataclasses import replace

from prune_core.architectures import Architecture
from prune_core.architectures.bart import BART

_ENCODER, _DECODER = BART.stacks
_CROSS = replace(_DECODER.attention["cross_attention"], adapter="prune_core.compaction.whisper:WhisperAdapter")

WHISPER = Architecture(
    name="whisper",
    model_types=("whisper",),
    stacks=(_ENCODER, replace(_DECODER, attention={**_DECODER.attention, "cross_attention": _CROSS})),
)
