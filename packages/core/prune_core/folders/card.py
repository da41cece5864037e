"""The model card of a compact folder: metadata for the hub, how the model loads, what pruning did, the dense card."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.constants import REPOCARD_NAME
from huggingface_hub.errors import EntryNotFoundError
from transformers.models.auto import modeling_auto

from prune_core import __version__
from prune_core.compaction.layers import origins
from prune_core.compactor import Compaction
from prune_core.errors import ModelError, brief
from prune_core.files import write_text
from prune_core.folders.portable import MODULE
from prune_core.folders.pretrained import auto_classes
from prune_core.folders.sentence_transformers import sentence_folder
from prune_core.measure.memory import folder_size
from prune_core.structure import is_feed_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.recipe import TaskSection

logger = logging.getLogger(__name__)

TAGS = ("pruned", "prune")
_PIPELINES = {
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
    "AutoModelForTokenClassification": "token-classification",
}
"""What the hub calls the tasks of these classes; transformers.pipelines says so too, and takes seconds to import."""
_OURS = ("library_name", "model-index", "base_model_relation", "pipeline_tag")
"""What of the dense model's metadata is not simply that of the pruned one."""

PLAIN = "Load this model like any other:"
AFTER_IMPORT = "Load this model after `import prune_core` (pip install prune-core); nothing else changes:"
REMOTE = (
    "Load this model with `trust_remote_code=True`, by the modelling file in this folder; or after `import prune_core`:"
)
_CODE = """{hint}

```python
{first}from {module} import {name}

model = {load}("this folder"{more})
```"""


@dataclass(frozen=True)
class _Dense:
    """The dense model's card: metadata, as plain data, and text; both empty where it has none."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Measured:
    """What a run knows of its model beside what was removed: its manifest, and the task that its figures are of."""

    manifest: Mapping[str, Any]
    task: TaskSection


def write_card(
    folder: Path, compaction: Compaction, source: str | Path | None = None, measured: Measured | None = None
) -> None:
    """Write the card of the compact model that lies in `folder`.

    `source` is the folder or hub name of the dense model, whose own card is taken along where it has one: metadata
    such as license and language as the pruned model's, its text below ours.
    """
    dense = _card_of(source)
    base = _base(source, dense)
    library, loading, pipeline = _loading(compaction.model, folder)
    pipeline = dense.data.get("pipeline_tag", pipeline)
    name = str(base).rpartition("/")[2] if isinstance(base, str) else type(compaction.model).__name__
    found = {
        **{key: value for key, value in dense.data.items() if key not in _OURS},
        "base_model": base,
        "library_name": library,
        "pipeline_tag": pipeline,
        "tags": _unique(TAGS, [] if library == "transformers" else library, dense.data.get("tags")),
        **({} if measured is None else _figures(measured, pipeline) | {"model_name": f"{name}-pruned"}),
    }
    text = [f"# Pruned {name}", loading, *_told(compaction, folder, source, measured), *_dense_text(dense)]
    _write(folder, ModelCardData(**found, ignore_metadata_errors=True), "\n\n".join(text))


def carry_card(source: str | Path, folder: Path) -> None:
    """Give `folder`, made of the model at `source` but not compact, that model's card, and its name as the base model.

    Nothing is written where neither is known.
    """
    dense = _card_of(source)
    data = {**dense.data, "base_model": _base(source, dense)}
    if dense.text or any(data.values()):
        _write(folder, ModelCardData(**data, ignore_metadata_errors=True), dense.text)


def needs_us(model: PreTrainedModel) -> bool:
    """Whether a model loads only where prune_core is: its layers have sizes of their own, or weights a form."""
    return getattr(model.config, "quantization_config", None) is not None


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


def _write(folder: Path, data: Any, text: str) -> None:
    write_text(folder / REPOCARD_NAME, f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _card_of(source: str | Path | None) -> _Dense:
    """The card of a folder or hub name; an empty one, with a warning, where it cannot be read."""
    if source is None or (Path(source).is_dir() and not (Path(source) / REPOCARD_NAME).is_file()):
        return _Dense()
    try:
        place = Path(source) / REPOCARD_NAME if Path(source).is_dir() else str(source)
        card = ModelCard.load(place, ignore_metadata_errors=True)
        data: dict[str, Any] = card.data.to_dict()
        return _Dense(data, card.text.strip())
    except EntryNotFoundError:
        logger.info("%s: no card at hand to take along", source)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        logger.warning("%s: its card cannot be read, so license and text are not taken along: %s", source, brief(error))
    return _Dense()


def _base(source: str | Path | None, dense: _Dense) -> Any:
    """The dense model's name on the hub, or what its card calls its own base: a folder here says nothing elsewhere."""
    if source is not None and not Path(source).exists():
        return str(source)
    return dense.data.get("base_model")


def _loading(model: PreTrainedModel, folder: Path) -> tuple[str, str, str | None]:
    """Library, the lines that load the model, and what the hub calls its task."""
    beside = sentence_folder(str(folder))
    module, auto = loading_class(model)
    code = {"module": module, "name": auto, "load": f"{auto}.from_pretrained"}
    library, pipeline = "transformers", _PIPELINES.get(auto)
    if beside is not None:
        library, pipeline = "sentence-transformers", "sentence-similarity"
        code = {"module": "sentence_transformers", "name": beside.model_type, "load": beside.model_type}
    hint, first, more = PLAIN, "", ""
    if needs_us(model):
        hint, first = AFTER_IMPORT, "import prune_core\n"
        if (folder / f"{MODULE}.py").is_file() and auto.startswith("Auto"):
            hint, first, more = REMOTE, "", ", trust_remote_code=True"
    return library, _CODE.format(hint=hint, first=first, more=more, **code), pipeline


def _figures(measured: Measured, pipeline: str | None) -> dict[str, Any]:
    """The figures of a run, as the hub lists them; files here are data of one's own there, known by their name."""
    task, figures = measured.task, measured.manifest["metrics"]["pruned"]
    file = task.validation_file or task.train_file
    data: dict[str, Any] = {
        "task_type": pipeline or str(task.name),
        "dataset_type": task.dataset or "custom",
        "dataset_name": task.dataset or (Path(str(file)).name if file else "custom"),
        "dataset_config": task.dataset_config,
        "dataset_split": task.validation_split if task.dataset else None,
    }
    results = [EvalResult(metric_type=name, metric_value=value, **data) for name, value in figures.items()]
    return {"metrics": list(figures), "eval_results": results}


def _told(compaction: Compaction, folder: Path, source: str | Path | None, measured: Measured | None) -> Iterator[str]:
    """The paragraphs on what pruning did."""
    bits = getattr(getattr(compaction.model.config, "quantization_config", None), "embedding_bits", None)
    words = f" Its word embeddings are stored in {bits} bits." if bits else ""
    where = "in the layers that stay" if origins(compaction.model.config) else "of the dense model"
    yield f"It keeps {compaction.density:.1%} of the weights of the prunable linears {where}.{words}"
    if measured is None:
        yield _table(("figure", "dense", "pruned"), _counts(compaction, folder, source))
    else:
        rows = measured.manifest["summary"]
        yield _how(measured.manifest, compaction.model)
        yield _table(("figure", "dense", "pruned"), [tuple(row.values()) for row in rows])
    if compaction.notes:
        yield "\n".join(f"- {note}" for note in compaction.notes)
    yield _table(
        ("unit", "kept", "of"), [(unit.key, str(len(unit.kept)), str(unit.total)) for unit in compaction.units]
    )


def _how(manifest: Mapping[str, Any], model: PreTrainedModel) -> str:
    """By what it was pruned, and on what it was timed."""
    speed, asked = manifest["speedup"], manifest["density"]["asked"]
    machine, setting = speed["machine"], speed["settings"]
    where = machine["cpu"] + f", threads: {machine['threads']}" if machine["device"] == "cpu" else machine["device"]
    length = f", {setting['length']} tokens" if model.main_input_name == "input_ids" else ""
    target = "" if asked is None else f" to a density of {asked:.4g}"
    return (
        f"It was pruned by the strategy {manifest['strategy']} of prune {__version__}{target}, "
        f"teacher: {manifest['teacher']}, seed {manifest['seed']}. The speed-up, with its 95 % interval, is over the "
        f"dense model on {where}, batch {setting['batch_size']}{length}, {setting['dtype']}, torch {machine['torch']}."
    )


def _counts(compaction: Compaction, folder: Path, source: str | Path | None) -> list[tuple[str, str, str]]:
    """What is known of a model that was compacted and not measured."""
    rows = [("density", "1", f"{compaction.density:.3f}")]
    for key, one in origins(compaction.model.config).items():
        rows.append((f"{key.removesuffix('layer.')}layers", str(one[-1]), str(len(one) - 1)))
    for title, neurons in (("heads", False), ("neurons", True)):
        units = [unit for unit in compaction.units if is_feed_forward(unit.key) == neurons]
        rows.append((title, str(sum(unit.total for unit in units)), str(sum(len(unit.kept) for unit in units))))
    return [*rows, ("bytes on disk", _bytes(source), _bytes(folder))]


def _bytes(source: str | Path | None) -> str:
    """Bytes of the weights in a folder; a dash for what is none, such as a hub name."""
    try:
        return "-" if source is None else f"{folder_size(Path(source)):,}"
    except ModelError:
        return "-"


def _dense_text(dense: _Dense) -> Iterator[str]:
    """The dense model's own card. Its figures are shown: as metadata the hub would take them for the pruned model's."""
    index = dense.data.get("model-index")
    if index or dense.text:
        yield "## The card of the dense model"
    if index:
        yield f"```yaml\n{yaml.safe_dump({'model-index': index}, sort_keys=False, allow_unicode=True).strip()}\n```"
    if dense.text:
        yield dense.text


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _unique(*lists: Any) -> list[str]:
    """What several lists hold, each once; a single string is a list of one, None of none."""
    whole = [[one] if isinstance(one, str) else one or [] for one in lists]
    return list(dict.fromkeys(name for names in whole for name in names))
