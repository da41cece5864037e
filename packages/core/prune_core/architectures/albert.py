"""ALBERT: few layers, or one, that the model runs through again and again; a layer has one size wherever it is used."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

ALBERT = Architecture(
    name="albert",
    model_types=("albert",),
    stacks=(
        Stack(
            layers="albert_layer_groups.*.albert_layers",
            attention={
                "attention": AttentionLayout(
                    core="attention",
                    query="attention.query",
                    key="attention.key",
                    value="attention.value",
                    output="attention.dense",
                    head_size="attention_head_size",
                    adapter="prune_core.compaction.albert:AlbertAdapter",
                )
            },
            ffn=FeedForwardLayout(up="ffn", down="ffn_output", activation="activation"),
            sizes=Sizes(layers=None),
        ),
    ),
)
