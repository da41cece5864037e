"""ModernBERT: query, key and value are one linear, and so are what its activation reads and what that is gated by."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

MODERNBERT = Architecture(
    name="modernbert",
    model_types=("modernbert",),
    stacks=(
        Stack(
            layers="layers",
            attention={
                "attention": AttentionLayout(
                    core="attn",
                    query="attn.Wqkv",
                    key="attn.Wqkv",
                    value="attn.Wqkv",
                    output="attn.Wo",
                    head_size="head_dim",
                )
            },
            ffn=FeedForwardLayout(gate="mlp.Wi", up="mlp.Wi", down="mlp.Wo", activation="mlp.act"),
            sizes=Sizes(per_layer=("layer_types",)),
        ),
    ),
)
