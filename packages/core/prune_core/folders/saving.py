"""Write a compact model as an ordinary Hugging Face folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.models.auto import modeling_auto

from prune_core.compactor import Compaction
from prune_core.files import replacing
from prune_core.folders.sentence_transformers import SentenceFolder, companions
from prune_core.folders.storage import packable, packed_state

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CARD = """---
library_name: {library}
tags: [{tags}]
---
{hint}

```python
{first}from {module} import {name}

model = {load}("this folder")
```

It keeps {density:.1%} of the weights of the prunable linears of the dense model.{words}

| unit | kept | of |
|---|---|---|
{rows}
"""

WORDS = " Its word embeddings are stored in {bits} bits."
AFTER_IMPORT = "Load this model after `import prune_core` (pip install prune-core); nothing else changes:"


def needs_us(model: PreTrainedModel) -> bool:
    """Whether a model loads only where prune_core is: its layers have sizes of their own, or weights a form."""
    return getattr(model.config, "quantization_config", None) is not None


def save_compact(
    compaction: Compaction, folder: str | Path, processor: Any = None, source: str | Path | None = None
) -> None:
    """Save model, config, generation config, processor and model card to `folder`, replacing what was there.

    Weights are safetensors; those under sparse masks are stored as kept values and mask bits. `source` is the folder or
    hub name of the dense model: if sentence-transformers wrote it, its modules are copied. ModelError where they cannot
    be.
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
        (draft / "README.md").write_text(_card(compaction, beside), encoding="utf-8")


def _card(compaction: Compaction, beside: SentenceFolder | None) -> str:
    rows = "\n".join(f"| {unit.key} | {len(unit.kept)} | {unit.total} |" for unit in compaction.units)
    needed = needs_us(compaction.model)
    bits = getattr(getattr(compaction.model.config, "quantization_config", None), "embedding_bits", None)
    hint, first = (AFTER_IMPORT, "import prune_core\n") if needed else ("Load this model like any other:", "")
    how = {"hint": hint, "first": first, "words": WORDS.format(bits=bits) if bits else ""}
    return CARD.format(**how, **_how_to_load(compaction.model, beside), density=compaction.density, rows=rows)


def _how_to_load(model: PreTrainedModel, beside: SentenceFolder | None) -> dict[str, str]:
    """What the card says of the library that loads this model, and of the class."""
    if beside is not None:
        name, library = beside.model_type, "sentence-transformers"
        how = {"library": library, "tags": f"pruned, {library}", "module": "sentence_transformers", "load": name}
        return {**how, "name": name}
    module, name = loading_class(model)
    load = f"{name}.from_pretrained"
    return {"library": "transformers", "tags": "pruned", "module": module, "load": load, "name": name}


def loading_class(model: PreTrainedModel) -> tuple[str, str]:
    """Module and name of the class that loads models like this one: transformers' Auto class, or else its own.

    Of several Auto classes the one that the model is named after comes first, the one for pretraining last.
    """
    own = type(model)
    if own.__module__.partition(".")[0] != "transformers":
        return own.__module__, own.__name__
    head = own.__name__.partition("For")[2]
    named = "AutoModelForSeq2SeqLM" if head == "ConditionalGeneration" else f"AutoModelFor{head}"
    found = [name for name in modeling_auto.__all__ if own in auto_classes(getattr(modeling_auto, name), model.config)]
    last = "AutoModelForPreTraining"
    order = {name: (name != named, name != "AutoModel", name == last) for name in found}
    return "transformers", min(found, key=order.__getitem__, default=own.__name__)


def auto_classes(auto: Any, config: PreTrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """The model classes that an Auto class has for a configuration."""
    mapping = getattr(auto, "_model_mapping", None)
    found = () if mapping is None else mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)
