"""Whisper: BART's layers over sounds; an adapter, since generation reads the caches of cross-attention."""

from dataclasses import replace

from prune_core.architectures import Architecture, Stack
from prune_core.architectures.bart import FFN, attention, sizes

WHISPER = Architecture(
    name="whisper",
    model_types=("whisper",),
    stacks=(
        Stack(
            name="encoder",
            layers="encoder.layers",
            attention={"attention": attention("self_attn")},
            ffn=FFN,
            sizes=sizes("encoder"),
        ),
        Stack(
            name="decoder",
            layers="decoder.layers",
            attention={
                "attention": attention("self_attn"),
                "cross_attention": replace(
                    attention("encoder_attn", cross=True), adapter="prune_core.compaction.whisper:WhisperAdapter"
                ),
            },
            ffn=FFN,
            sizes=sizes("decoder"),
        ),
    ),
)
