"""GPT-2: Conv1Ds, which hold [in, out]; query, key and value are one of them, key and value of a cross-attention."""

from dataclasses import replace

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack

_ATTENTION = AttentionLayout(
    core="attn", query="attn.c_attn", key="attn.c_attn", value="attn.c_attn", output="attn.c_proj", head_size="head_dim"
)
_CROSS = AttentionLayout(
    core="crossattention",
    query="crossattention.q_attn",
    key="crossattention.c_attn",
    value="crossattention.c_attn",
    output="crossattention.c_proj",
    head_size="head_dim",
    cross=True,
)
_STACK = Stack(
    layers="h",
    attention={"attention": _ATTENTION},
    ffn=FeedForwardLayout(up="mlp.c_fc", down="mlp.c_proj", activation="mlp.act"),
    sizes=Sizes(heads="n_head", neurons="n_inner", layers="n_layer"),
)

GPT2 = Architecture(name="gpt2", model_types=("gpt2",), stacks=(_STACK,))
GPT2_CROSS = replace(
    GPT2,
    name="gpt2-cross",
    stacks=(replace(_STACK, attention={"attention": _ATTENTION, "cross_attention": _CROSS}),),
)
"""The decoder of an encoder-decoder (`add_cross_attention`): it is looked for first."""
