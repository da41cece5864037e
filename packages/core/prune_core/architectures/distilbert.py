"""DistilBERT."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

DISTILBERT = Architecture(
    name="distilbert",
    model_types=("distilbert",),
    stacks=(
        Stack(
            layers="transformer.layer",
            attention={
                "attention": AttentionLayout(
                    core="attention",
                    query="attention.q_lin",
                    key="attention.k_lin",
                    value="attention.v_lin",
                    output="attention.out_lin",
                    head_size="attention_head_size",
                )
            },
            ffn=FeedForwardLayout(up="ffn.lin1", down="ffn.lin2", activation="ffn.activation"),
            sizes=Sizes(heads="n_heads", neurons="hidden_dim", layers="n_layers"),
        ),
    ),
)
