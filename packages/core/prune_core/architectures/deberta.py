"""DeBERTa: BERT's layer; one linear has query, key and value of the first head, then of the second, and no bias.

The biases of queries and values are parameters of their own; an adapter cuts them, and the projections of positions.
"""

from dataclasses import replace

from prune_core.architectures import Architecture, AttentionLayout
from prune_core.architectures.bert import BERT

DEBERTA = Architecture(
    name="deberta",
    model_types=("deberta",),
    stacks=(
        replace(
            BERT.stacks[0],
            attention={
                "attention": AttentionLayout(
                    core="attention.self",
                    query="attention.self.in_proj",
                    key="attention.self.in_proj",
                    value="attention.self.in_proj",
                    by_head=True,
                    value_bias="attention.self.v_bias",
                    output="attention.output.dense",
                    head_size="attention_head_size",
                    adapter="prune_core.compaction.deberta:DebertaAdapter",
                )
            },
        ),
    ),
)
