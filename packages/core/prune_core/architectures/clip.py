"""CLIP: a text and a vision stack of equal layers, together or each in a model of its own."""

from prune_core.architectures import Architecture, FeedForwardLayout, Sizes, Stack
from prune_core.architectures.bart import attention


def tower(layers: str, name: str, config: str = "") -> Stack:
    """One of the stacks. `config` is the part of the configuration that is this stack's own, with a dot behind it."""
    return Stack(
        name=name,
        layers=layers,
        attention={"attention": attention("self_attn")},
        ffn=FeedForwardLayout(up="mlp.fc1", down="mlp.fc2", activation="mlp.activation_fn"),
        sizes=Sizes(
            heads=f"{config}num_attention_heads",
            neurons=f"{config}intermediate_size",
            layers=f"{config}num_hidden_layers",
        ),
    )


CLIP = Architecture(
    name="clip",
    model_types=("clip",),
    stacks=(
        tower("text_model.encoder.layers", "text", "text_config."),
        tower("vision_model.encoder.layers", "vision", "vision_config."),
    ),
)
CLIP_TEXT = Architecture(name="clip-text", model_types=("clip_text_model",), stacks=(tower("encoder.layers", "text"),))
CLIP_VISION = Architecture(
    name="clip-vision", model_types=("clip_vision_model",), stacks=(tower("encoder.layers", "vision"),)
)
