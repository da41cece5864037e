"""ViT and DeiT (transformers 5 names)."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

ATTENTION = AttentionLayout(
    core="attention",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    output="attention.o_proj",
    head_size="head_dim",
)
FFN = FeedForwardLayout(up="mlp.fc1", down="mlp.fc2", activation="mlp.activation_fn")

VIT = Architecture(
    name="vit",
    model_types=("vit", "deit"),
    stacks=(Stack(layers="layers", attention={"attention": ATTENTION}, ffn=FFN, sizes=Sizes(head_size="head_dim")),),
)
