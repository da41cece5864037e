"""Gemma 3 with images: the layers of LLaMA behind a vision tower as CLIP's."""

from dataclasses import replace

from prune_core.architectures import Architecture, Sizes
from prune_core.architectures.clip import tower
from prune_core.architectures.llama import LLAMA

GEMMA3 = Architecture(
    name="gemma3",
    model_types=("gemma3",),
    stacks=(
        replace(
            LLAMA.stacks[0],
            name="text",
            layers="language_model.layers",
            sizes=Sizes(
                heads="text_config.num_attention_heads",
                key_value_heads="text_config.num_key_value_heads",
                head_size="text_config.head_dim",
                neurons="text_config.intermediate_size",
                layers="text_config.num_hidden_layers",
                per_layer=("text_config.layer_types",),
            ),
        ),
        tower("vision_tower.encoder.layers", "vision", "vision_config."),
    ),
)
