"""Write a compact model as an ordinary Hugging Face folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune_core.compactor import Compaction
from prune_core.files import replacing
from prune_core.folders.card import write_card
from prune_core.folders.sentence_transformers import companions
from prune_core.folders.storage import packable, packed_state


def save_compact(
    compaction: Compaction, folder: str | Path, processor: Any = None, source: str | Path | None = None
) -> None:
    """Save model, config, generation config, processor and model card to `folder`, replacing what was there.

    Weights are safetensors; those under sparse masks are stored as kept values and mask bits. `source` is the folder or
    hub name of the dense model: what its card says is taken along, and if sentence-transformers wrote it, its modules
    are copied. ModelError where they cannot be.
    """
    folder = Path(folder)
    model = compaction.model
    beside = companions(str(source), model) if source is not None else None
    state = packed_state(model.state_dict(), packable(model, compaction.masks)) if compaction.masks.sparse else None
    with replacing(folder) as draft:
        model.save_pretrained(draft, state_dict=state)
        if processor is not None:
            processor.save_pretrained(draft)
        if beside is not None:
            beside.copy_to(draft)
        write_card(draft, compaction, source)
