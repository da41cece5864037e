"""T5, and with a gated feed-forward part T5 1.1 and FLAN-T5. Position biases are per head: an adapter follows them."""

from dataclasses import replace
from functools import partial

from prune_core.architectures import Architecture, AttentionLayout, FeedForwardLayout, Sizes, Stack


def _attention(core: str, *, cross: bool = False) -> AttentionLayout:
    return AttentionLayout(
        core=core,
        query=f"{core}.q",
        key=f"{core}.k",
        value=f"{core}.v",
        output=f"{core}.o",
        head_size="key_value_proj_dim",
        cross=cross,
        adapter="prune_core.compaction.t5:T5Adapter",
    )


def _stacks(up: str, gate: str | None = None) -> tuple[Stack, Stack]:
    """Encoder and decoder; the feed-forward part is the second part of a layer of the one, the third of the other."""
    own = {"attention": _attention("layer.0.SelfAttention")}
    both = own | {"cross_attention": _attention("layer.1.EncDecAttention", cross=True)}

    def ffn(core: str) -> FeedForwardLayout:
        return FeedForwardLayout(
            up=f"{core}.{up}", gate=f"{core}.{gate}" if gate else None, down=f"{core}.wo", activation=f"{core}.act"
        )

    sizes = partial(Sizes, "num_heads", None, "d_kv", "d_ff")
    return (
        Stack("encoder.block", own, ffn("layer.1.DenseReluDense"), "encoder", sizes("num_layers")),
        Stack("decoder.block", both, ffn("layer.2.DenseReluDense"), "decoder", sizes("num_decoder_layers")),
    )


T5 = Architecture(name="t5", model_types=("t5",), stacks=_stacks("wi"))
T5_GATED = replace(T5, name="t5-gated", stacks=_stacks("wi_1", gate="wi_0"))
