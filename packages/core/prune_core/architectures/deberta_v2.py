"""DeBERTa v2 and v3: BERT's layer with projections of relative positions beside query and key, cut by an adapter."""

from dataclasses import replace

from prune_core.architectures import Architecture, AttentionLayout
from prune_core.architectures.bert import BERT

DEBERTA_V2 = Architecture(
    name="deberta-v2",
    model_types=("deberta-v2",),
    stacks=(
        replace(
            BERT.stacks[0],
            attention={
                "attention": AttentionLayout(
                    core="attention.self",
                    query="attention.self.query_proj",
                    key="attention.self.key_proj",
                    value="attention.self.value_proj",
                    output="attention.output.dense",
                    head_size="attention_head_size",
                    adapter="prune_core.compaction.deberta_v2:DebertaV2Adapter",
                )
            },
        ),
    ),
)
