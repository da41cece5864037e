"""Phi-3: query, key and value are one linear, and so are gate and up. An adapter tells it how many queries are left."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

PHI3 = Architecture(
    name="phi3",
    model_types=("phi3",),
    stacks=(
        Stack(
            layers="layers",
            attention={
                "attention": AttentionLayout(
                    core="self_attn",
                    query="self_attn.qkv_proj",
                    key="self_attn.qkv_proj",
                    value="self_attn.qkv_proj",
                    output="self_attn.o_proj",
                    head_size="head_dim",
                    adapter="prune_core.compaction.phi3:Phi3Adapter",
                )
            },
            ffn=FeedForwardLayout(
                gate="mlp.gate_up_proj", up="mlp.gate_up_proj", down="mlp.down_proj", activation="mlp.activation_fn"
            ),
            sizes=Sizes(key_value_heads="num_key_value_heads", head_size="head_dim"),
        ),
    ),
)
