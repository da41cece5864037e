"""Swin: ViT's layer in stages of different widths, with a position bias of every head in each layer."""

from dataclasses import replace

from prune_core.architectures import Architecture, Stack
from prune_core.architectures.vit import ATTENTION, FFN

SWIN = Architecture(
    name="swin",
    model_types=("swin",),
    stacks=(
        Stack(
            layers="encoder.layers.*.blocks",
            attention={"attention": replace(ATTENTION, adapter="prune_core.compaction.swin:SwinAdapter")},
            ffn=FFN,
        ),
    ),
)
