"""GPT-NeoX (Pythia): one linear has query, key and value of the first head, then those of the second, and so on."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

GPT_NEOX = Architecture(
    name="gpt_neox",
    model_types=("gpt_neox",),
    stacks=(
        Stack(
            layers="layers",
            attention={
                "attention": AttentionLayout(
                    core="attention",
                    query="attention.query_key_value",
                    key="attention.query_key_value",
                    value="attention.query_key_value",
                    by_head=True,
                    output="attention.dense",
                    head_size="head_size",
                    adapter="prune_core.compaction.gpt_neox:GPTNeoXAdapter",
                )
            },
            ffn=FeedForwardLayout(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", activation="mlp.act"),
            sizes=Sizes(),
        ),
    ),
)
