"""OPT: BART's layer in a decoder of its own."""

from prune_core.architectures import Architecture, Sizes, Stack
from prune_core.architectures.bart import FFN, attention

OPT = Architecture(
    name="opt",
    model_types=("opt",),
    stacks=(
        Stack(
            layers="decoder.layers",
            attention={"attention": attention("self_attn")},
            ffn=FFN,
            sizes=Sizes(neurons="ffn_dim"),
        ),
    ),
)
