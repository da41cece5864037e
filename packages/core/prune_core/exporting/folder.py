"""What `prune export` does: a folder with the exported model, proven, timed, and with what it needs beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from prune_core import __version__
from prune_core.errors import ExportError, ModelError, PruneError
from prune_core.exporting.batches import dummy, made_up, real
from prune_core.exporting.formats import Exporter, Runtime, exporter
from prune_core.exporting.parity import Parity, prove
from prune_core.exporting.rounding import Int8, refuse_int8, round_to_int8
from prune_core.exporting.speed import Timed, measure_speed
from prune_core.exporting.trace import Batch, Traced, symbols, trace
from prune_core.files import refuse_occupied, replacing
from prune_core.folders.pretrained import load_saved
from prune_core.folders.processors import find_processor
from prune_core.measure import fitting
from prune_core.recipe import MeasureSection, PluginsSection, Recipe, TaskSection
from prune_core.runs.preparation import trained_job

FACTS = "export.json"

_NO_CACHE = "one forward without a cache: to generate, every further token computes those before it again"
_NOT_EXACT = "int8 rounds: its outputs differ by intention, by how much is measured"
_NO_FIGURES = "the task's figures need generation with a cache, which the export has not: outputs were compared instead"


@dataclass(frozen=True)
class Wanted:
    """What to export to, how to round, what to compare the speed with, the data of a task, if any, and the plugins that
    may offer it.
    """

    format: str
    int8: Int8 | None = None
    baseline: str | None = None
    task: TaskSection | None = None
    measure: MeasureSection = field(default_factory=MeasureSection)
    plugins: PluginsSection = field(default_factory=PluginsSection)


@dataclass(frozen=True)
class Exported:
    """An exported model that runs: call it with a batch of its inputs. `facts` is what export.json says."""

    facts: dict[str, Any]
    runtime: Runtime

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs, by name; ExportError where inputs are missing, or others given."""
        wanted = list(self.facts["inputs"])
        if sorted(batch) != sorted(wanted):
            raise ExportError(f"the exported model takes {', '.join(wanted)}, found {', '.join(batch)}")
        return self.runtime(batch)


def export_folder(model: str, output: Path, wanted: Wanted) -> dict[str, Any]:
    """Export the model of a folder or hub name to the folder `output`; returns what export.json says.

    The files are read again by their runtime, and have to compute what the model does, in float32: on validation inputs
    of the task, where there is one, else on random ones. ExportError where the format cannot, VerificationError where
    outputs differ; then nothing is written.
    """
    refuse_occupied(output)
    target = exporter(wanted.format)
    target.need()
    refuse_int8(wanted.format, wanted.int8, wanted.task is not None)
    job = None
    if wanted.task is not None:
        job = trained_job(Recipe(model=model, task=wanted.task, plugins=wanted.plugins), "cpu")
    loaded = (job.task.load_model(model) if job else load_saved(model)).eval()
    dense = None if wanted.baseline is None else _baseline(wanted.baseline)
    processor = job.task.processor if job else find_processor(model)
    names = getattr(processor, "model_input_names", ())
    batches: Sequence[Batch] = real(loaded, job.task) if job else made_up(loaded, names)
    with replacing(output) as draft:
        draft.mkdir()
        traced, parity = export_model(loaded, draft, target, batches)
        facts = _facts(target, loaded, traced, parity) | {"real_inputs": job is not None}
        if wanted.int8:
            facts["int8"] = round_to_int8(target, draft, wanted.int8, batches, (loaded, job))
        facts["files"] = {path.name: path.stat().st_size for path in sorted(draft.iterdir())}
        facts["speed"] = _speed(target, draft, (loaded, dense), wanted.measure, names)
        facts["notes"] = _notes(loaded, wanted)
        (draft / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        loaded.config.save_pretrained(draft)
        if processor is not None:
            processor.save_pretrained(draft)
    return facts


def export_model(
    model: PreTrainedModel, folder: Path, target: Exporter, batches: Sequence[Batch]
) -> tuple[Traced, Parity]:
    """Write `model`, in evaluation mode, to `folder`, traced by the first of `batches` and proven on all of them."""
    traced = trace(model, batches[0])
    target.write(traced, folder)
    return traced, prove(target.load(folder), model, batches)


def load_exported(folder: str | Path, *, trusted: bool = False) -> Exported:
    """The model of a folder that `prune export` wrote, in its runtime, on as many threads as torch has.

    ModelError where it is no such folder, ExportError where its files are damaged or its runtime is not installed. A
    torch.export file can run code when it is read: `trusted` says that this one is your own, else ExportError.
    """
    folder = Path(folder)
    facts = _read_facts(folder / FACTS)
    target = exporter(str(facts["format"]))
    if target.code_in_files and not trusted:
        raise ExportError(
            f"{folder / target.file} could run code when it is read: pass trusted=True if it is from a source you trust"
        )
    return Exported(facts, target.load(folder))


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} was not written by prune export: it holds no {FACTS}") from error
    except ValueError as error:  # no JSON, no UTF-8
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("inputs"), dict) or "format" not in facts:
        raise ModelError(f"{path} is no description of an exported model: format and inputs were expected")
    return facts


def _facts(target: Exporter, model: PreTrainedModel, traced: Traced, parity: Parity) -> dict[str, Any]:
    sizes = symbols(traced.program)
    ours = {"prune_core": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "format": target.name,
        "model": type(model).__name__,
        "inputs": {
            name: {
                "dtype": str(value.dtype).removeprefix("torch."),
                "axes": [traced.axes[name].get(axis, size) for axis, size in enumerate(sizes[name])],
            }
            for name, value in traced.inputs.items()
        },
        "outputs": list(traced.outputs),
        "parity": asdict(parity),
        "versions": ours | target.versions(),
    }


@contextmanager
def _of_the_baseline() -> Iterator[None]:
    """Errors in here say of which of the two models they are."""
    try:
        yield
    except PruneError as error:
        raise type(error)(f"baseline: {error}") from error


def _baseline(path: str) -> PreTrainedModel:
    with _of_the_baseline():
        model = load_saved(path)
    model.eval()
    return model


def _speed(
    target: Exporter,
    folder: Path,
    models: tuple[PreTrainedModel, PreTrainedModel | None],
    section: MeasureSection,
    names: Any,
) -> dict[str, Any]:
    """Timings of the exported model and, in float32, of the baseline, which is exported for that alone."""
    model, dense = models
    section = fitting(section if dense is None else fitting(section, dense), model)

    def timed(one: PreTrainedModel, place: Path) -> Timed:
        return target.load(place), dummy(one, section.batch_size, section.length, names)

    sides = {"model": timed(model, folder)}
    with tempfile.TemporaryDirectory() as place:
        if dense is not None:
            with _of_the_baseline():
                export_model(dense, Path(place), target, made_up(dense, names))
                sides["baseline"] = timed(dense, Path(place))
        return measure_speed(sides, section)


def _notes(model: PreTrainedModel, wanted: Wanted) -> list[str]:
    notes = [_NO_CACHE] if model.can_generate() else []
    if wanted.int8:
        notes.append(_NOT_EXACT)
        if wanted.task is not None and model.config.is_encoder_decoder:
            notes.append(_NO_FIGURES)
    return notes
