"""GPT-2: Conv1Ds, which hold [in, out]; query, key and value are one of them."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

GPT2 = Architecture(
    name="gpt2",
    model_types=("gpt2",),
    stacks=(
        Stack(
            layers="h",
            attention={
                "attention": AttentionLayout(
                    core="attn",
                    query="attn.c_attn",
                    key="attn.c_attn",
                    value="attn.c_attn",
                    output="attn.c_proj",
                    head_size="head_dim",
                )
            },
            ffn=FeedForwardLayout(up="mlp.c_fc", down="mlp.c_proj", activation="mlp.act"),
            sizes=Sizes(heads="n_head", neurons="n_inner", layers="n_layer"),
        ),
    ),
)
