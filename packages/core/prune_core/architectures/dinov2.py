"""DINOv2: ViT's layer; that of its largest model has a gated feed-forward part."""

from dataclasses import replace

from prune_core.architectures import Architecture, FeedForwardLayout, Sizes, Stack
from prune_core.architectures.vit import ATTENTION, FFN

_STACK = Stack(
    layers="encoder.layer",
    attention={"attention": ATTENTION},
    ffn=FFN,
    sizes=Sizes(head_size="head_dim", neurons=None),  # its FFN is a whole multiple of the hidden size
)
_GATED = FeedForwardLayout(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj", activation="mlp.act_fn")

DINOV2 = Architecture(name="dinov2", model_types=("dinov2",), stacks=(_STACK,))
DINOV2_GATED = replace(DINOV2, name="dinov2-gated", stacks=(replace(_STACK, ffn=_GATED),))
