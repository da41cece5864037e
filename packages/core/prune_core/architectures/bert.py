"""BERT and the encoders that copy its layer."""

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

BERT = Architecture(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    stacks=(
        Stack(
            layers="encoder.layer",
            attention={
                "attention": AttentionLayout(
                    core="attention.self",
                    query="attention.self.query",
                    key="attention.self.key",
                    value="attention.self.value",
                    output="attention.output.dense",
                    head_size="attention_head_size",
                )
            },
            ffn=FeedForwardLayout(
                up="intermediate.dense", down="output.dense", activation="intermediate.intermediate_act_fn"
            ),
            sizes=Sizes(),
        ),
    ),
)
