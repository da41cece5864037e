"""wav2vec 2.0 and HuBERT, whose layers are the same, with norms before or behind."""

from prune_core.architectures import Architecture, FeedForwardLayout, Sizes, Stack
from prune_core.architectures.bart import attention

WAV2VEC2 = Architecture(
    name="wav2vec2",
    model_types=("wav2vec2", "hubert"),
    stacks=(
        Stack(
            layers="encoder.layers",
            attention={"attention": attention("attention")},
            ffn=FeedForwardLayout(
                up="feed_forward.intermediate_dense",
                down="feed_forward.output_dense",
                activation="feed_forward.intermediate_act_fn",
            ),
            sizes=Sizes(),
        ),
    ),
)
