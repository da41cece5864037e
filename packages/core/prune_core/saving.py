"""Write a compact model as an ordinary Hugging Face folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune_core.compactor import Compaction
from prune_core.files import replacing
from prune_core.storage import packed_state

CARD = """---
library_name: transformers
tags: [pruned]
---
Load this model after `import prune_core` (pip install prune-core); nothing else changes:

```python
import prune_core
from transformers import {auto}

model = {auto}.from_pretrained("this folder")
```

It keeps {density:.1%} of the weights of the prunable linears of the dense model.

| unit | kept | of |
|---|---|---|
{rows}
"""


def save_compact(compaction: Compaction, folder: str | Path, processor: Any = None) -> None:
    """Save model, config, generation config, processor and model card to `folder`, replacing what was there.

    Weights are safetensors; those under sparse masks are stored as kept values and mask bits.
    """
    folder = Path(folder)
    model = compaction.model
    state = packed_state(model.state_dict(), compaction.masks) if compaction.masks.sparse else None
    with replacing(folder) as draft:
        model.save_pretrained(draft, state_dict=state)
        if processor is not None:
            processor.save_pretrained(draft)
        (draft / "README.md").write_text(_card(compaction), encoding="utf-8")


def _card(compaction: Compaction) -> str:
    rows = "\n".join(f"| {unit.key} | {len(unit.kept)} | {unit.total} |" for unit in compaction.units)
    return CARD.format(auto=auto_class(compaction.model), density=compaction.density, rows=rows)


def auto_class(model: Any) -> str:
    """Name of the transformers class that loads models like this one."""
    name = type(model).__name__
    head = name.partition("For")[2]
    return f"AutoModelFor{head}" if head else "AutoModel"
