"""BART and the encoder-decoders that copy its layers: mBART, Pegasus, Marian."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack


def attention(core: str, *, cross: bool = False) -> AttentionLayout:
    """The attention of BART's kin, its projections inside the module `core`."""
    return AttentionLayout(
        core=core,
        query=f"{core}.q_proj",
        key=f"{core}.k_proj",
        value=f"{core}.v_proj",
        output=f"{core}.out_proj",
        head_size="head_dim",
        cross=cross,
    )


def sizes(stack: str) -> Sizes:
    """The fields of the encoder or the decoder."""
    return Sizes(heads=f"{stack}_attention_heads", neurons=f"{stack}_ffn_dim", layers=f"{stack}_layers")


FFN = FeedForwardLayout(up="fc1", down="fc2", activation="activation_fn")

BART = Architecture(
    name="bart",
    model_types=("bart", "mbart", "pegasus", "marian"),
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
            attention={"attention": attention("self_attn"), "cross_attention": attention("encoder_attn", cross=True)},
            ffn=FFN,
            sizes=sizes("decoder"),
        ),
    ),
)
