"""MPNet: BERT's layer with a position bias of every head that all layers share; an adapter takes each layer's part."""

from dataclasses import replace

from prune_core.architectures import Architecture, AttentionLayout
from prune_core.architectures.bert import BERT

MPNET = Architecture(
    name="mpnet",
    model_types=("mpnet",),
    stacks=(
        replace(
            BERT.stacks[0],
            attention={
                "attention": AttentionLayout(
                    core="attention.attn",
                    query="attention.attn.q",
                    key="attention.attn.k",
                    value="attention.attn.v",
                    output="attention.attn.o",
                    head_size="attention_head_size",
                    adapter="prune_core.compaction.mpnet:MPNetAdapter",
                )
            },
        ),
    ),
)
