"""Phi: attention and feed-forward part side by side; norms of q and k in some."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

PHI = Architecture(
    name="phi",
    model_types=("phi",),
    stacks=(
        Stack(
            layers="layers",
            attention={
                "attention": AttentionLayout(
                    core="self_attn",
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.dense",
                    head_size="head_dim",
                )
            },
            ffn=FeedForwardLayout(up="mlp.fc1", down="mlp.fc2", activation="mlp.activation_fn"),
            sizes=Sizes(key_value_heads="num_key_value_heads", head_size="head_dim"),
        ),
    ),
)
