"""DINOv2: ViT's layer. The gated feed-forward part of its largest model is another layout, and is refused."""

from prune_core.architectures import Architecture, Sizes, Stack
from prune_core.architectures.vit import ATTENTION, FFN

DINOV2 = Architecture(
    name="dinov2",
    model_types=("dinov2",),
    stacks=(
        Stack(
            layers="encoder.layer",
            attention={"attention": ATTENTION},
            ffn=FFN,
            sizes=Sizes(head_size="head_dim", neurons=None),  # its FFN is a whole multiple of the hidden size
        ),
    ),
)
