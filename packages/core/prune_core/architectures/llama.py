"""LLaMA and the decoders that copy its layer: grouped queries, a gated feed-forward part, norms of q and k in some."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

LLAMA = Architecture(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"),
    stacks=(
        Stack(
            layers="layers",
            attention={
                "attention": AttentionLayout(
                    core="self_attn",
                    query="self_attn.q_proj",
                    key="self_attn.k_proj",
                    value="self_attn.v_proj",
                    output="self_attn.o_proj",
                    head_size="head_dim",
                )
            },
            ffn=FeedForwardLayout(
                up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj", activation="mlp.act_fn"
            ),
            sizes=Sizes(key_value_heads="num_key_value_heads", head_size="head_dim", per_layer=("layer_types",)),
        ),
    ),
)
