"""Prove that the masked, the compact and the reloaded model compute the same function, on real inputs."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.constants import REPOCARD_NAME
from torch import Tensor, nn

from prune_core.errors import RunError, VerificationError, foreign
from prune_core.files import replacing
from prune_core.folders.portable import MODULE
from prune_core.folders.saving import save_compact
from prune_core.folders.sentence_transformers import MODULES
from prune_core.measure.forwards import HALF, evaluating, in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune_core.compactor import Compaction
    from prune_core.task import Task

SAMPLES = 64
_ALIGNMENT = 64
_TOLERANCE = 1e-4
"""Largest difference of an output in float32, relative to the largest value or to 1."""


@dataclass(frozen=True)
class Expected:
    """What a model puts out for some inputs, and how far each output of another of the same function may be from it."""

    outputs: list[Tensor]
    tolerances: list[float]

    @classmethod
    def of(cls, outputs: list[Tensor], dtype: torch.dtype) -> Expected:
        """Of a model in float32 1e-4 of the largest of all values, or of 1: other sums round otherwise. Of one in half
        precision a rounding of the output's own largest value: compaction adds up biases, which are rounded as well.
        """
        if dtype not in HALF:
            return cls(outputs, [tolerance(outputs)] * len(outputs))
        return cls(outputs, [torch.finfo(dtype).eps * _largest(one) for one in outputs])

    def furthest(self, found: list[Tensor]) -> tuple[float, float]:
        """Largest difference and tolerance of the output that is nearest to its tolerance, or furthest beyond it."""
        differences = [largest_difference([a], [b]) for a, b in zip(self.outputs, found, strict=True)]
        return max(zip(differences, self.tolerances, strict=True), key=lambda one: one[0] - one[1])


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences over `samples` inputs; a reloaded model must not differ at all.

    Of masked and compact, which both compute in float32, it is that of the output which is nearest to its tolerance.

    Masked and compact are compared before a fill, for a fill changes the weights by intention. `changed` names the
    files of the model that are not those that the run proved.
    """

    masked_vs_compact: float
    compact_vs_reloaded: float
    tolerance: float
    samples: int
    changed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.masked_vs_compact <= self.tolerance and self.compact_vs_reloaded == 0 and not self.changed

    @property
    def fault(self) -> str:
        """What was found, on one line."""
        differences = (self.masked_vs_compact, self.compact_vs_reloaded)
        endless = "" if all(map(math.isfinite, differences)) else "; outputs of one are not finite numbers"
        files = f"; not as the run wrote them: {', '.join(self.changed)}" if self.changed else ""
        return (
            f"masked - compact {self.masked_vs_compact:.2e} (at most {self.tolerance:.2e}), compact - reloaded "
            f"{self.compact_vs_reloaded:.2e} (at most 0), on {self.samples} inputs{endless}{files}"
        )

    def enforce(self) -> Verification:
        """Itself; VerificationError when a difference is too large."""
        if not self.passed:
            raise VerificationError(
                f"the models differ: {self.fault}; no model was written: see by prune inspect whether the units "
                "are the model's, name its modules in the recipe (architecture) if not, or report this"
            )
        return self


def expect(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> Expected:
    """What a model puts out for these inputs in float32, to compare the `exact_outputs` of others with."""
    return Expected.of(exact_outputs(model, batches), model.dtype)


def verify(expected: Expected, compaction: Compaction, batches: Iterable[dict[str, Tensor]]) -> Verification:
    """Compare what the masked model put out for `batches`, the compact model, and the same through a folder and back.

    `expected` is `expect(masked, batches)`: the masked model itself may be gone by now.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _compared(expected, compaction, list(batches), Path(folder) / "model")


def save_proven(
    expected: Expected, compaction: Compaction, batches: Iterable[dict[str, Tensor]], folder: Path, **beside: Any
) -> Verification:
    """Verify, and keep the folder that was verified; `beside` is the processor and source that `save_compact` takes.

    VerificationError where a difference is too large, and then nothing is written.
    """
    with replacing(folder) as draft:
        return _compared(expected, compaction, list(batches), draft, **beside).enforce()


def _compared(
    expected: Expected, compaction: Compaction, batches: list[dict[str, Tensor]], folder: Path, **beside: Any
) -> Verification:
    with told():
        save_compact(compaction, folder, **beside)
        reloaded = _reloaded(compaction, folder)
        found = outputs(compaction.model, batches)
        again = outputs(reloaded, batches)
        exact = exact_outputs(compaction.model, batches) if compaction.model.dtype in HALF else found
        difference, allowed = expected.furthest(exact)
        return Verification(
            masked_vs_compact=difference,
            compact_vs_reloaded=largest_difference(found, again),
            tolerance=allowed,
            samples=sum(len(next(iter(batch.values()))) for batch in batches),
        )


def told() -> AbstractContextManager[None]:
    """VerificationError for whatever else is raised where a model is cut, or the compact one runs or loads."""
    return foreign(VerificationError, "the compact model cannot be made, run or loaded, so no model was written")


def save_verified(
    compaction: Compaction,
    folder: Path,
    batches: Iterable[dict[str, Tensor]],
    processor: Any = None,
    source: str | Path | None = None,
) -> float:
    """Save as `save_compact` does what, reloaded, computes exactly what the model in memory does.

    Returns the difference, which is 0; VerificationError where it is not, and then nothing is written.
    """
    batches = list(batches)
    with replacing(folder) as draft:
        save_compact(compaction, draft, processor, source)
        found = outputs(compaction.model, batches)
        difference = largest_difference(found, outputs(_reloaded(compaction, draft), batches))
        if difference:
            raise VerificationError(
                f"{folder} would not be the model in memory: reloaded, its outputs differ by {difference:.2e} "
                "(at most 0); no model was written"
            )
    return difference


def digests(model: Path) -> dict[str, str]:
    """SHA-256 of the files of a model folder, less its card, which is anybody's to edit."""
    return {name: _digest(path) for name, path in _files(model).items()}


def changed_files(manifest: dict[str, Any], model: Path) -> tuple[str, ...]:
    """Files of a model that are other ones than when the run wrote its manifest, or gone; of those that came to it the
    ones that decide what it computes: weights, configurations, code.
    """
    if "sha256" not in manifest:
        raise RunError(
            f"the manifest of {model.parent} has no sha256 of the model: it cannot be verified, run it again"
        )
    written, files = manifest["sha256"], _files(model)
    more = {name for name in files.keys() - written.keys() if _decides(files[name])}
    changed = {name for name in written if name not in files or _digest(files[name]) != written[name]}
    return tuple(sorted(changed | more))


def _files(model: Path) -> dict[str, Path]:
    paths = sorted(path for path in model.rglob("*") if path.is_file() and path.name != REPOCARD_NAME)
    return {path.relative_to(model).as_posix(): path for path in paths}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decides(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name in ("config.json", MODULES, f"{MODULE}.py")


def real_batches(task: Task, count: int = SAMPLES) -> Iterator[dict[str, Tensor]]:
    """Batches of the task's validation inputs, without labels: `count` examples in all."""
    features = task.validation()
    rows = [features[index] for index in range(min(count, len(features)))]
    for start in range(0, len(rows), 16):
        yield task.model_inputs(task.collate(rows[start : start + 16]))


def outputs(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[Tensor]:
    """Every tensor that a model puts out for these inputs, batch by batch, in evaluation mode."""
    _align(model)
    with torch.inference_mode(), evaluating(model):
        return [
            value.float().cpu()
            for batch in batches
            for value in tensors(model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).values())
        ]


def exact_outputs(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[Tensor]:
    """The same of a model whose weights may be of half precision, computed in float32: there models of one function do
    not differ by what each rounds in between.
    """
    wide = [{name: one.float() if one.dtype in HALF else one for name, one in batch.items()} for batch in batches]
    with in_float32(model):
        return outputs(model, wide)


def without_padding(output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """An output without the positions that are padding, [tokens, ...] then: nobody reads those, and what attention that
    sees nothing puts out is up to each runtime. An output that is not by token stays as it is.
    """
    mask = batch.get("attention_mask")
    if mask is None or output.shape[: mask.dim()] != mask.shape:
        return output
    return output[mask.to(output.device).bool()]


def _align(model: PreTrainedModel) -> None:
    """Copy what begins elsewhere than at the multiples of 64 bytes where memory of torch does: parameters of a mapped
    file lie anywhere, and kernels round by how memory is aligned. All others stay where they are, mapped ones too.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % _ALIGNMENT:
            parameter.data = parameter.data.clone()


def tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among what a model puts out; a backbone's maps are a tuple."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from tensors(value)


def _reloaded(compaction: Compaction, folder: Path) -> PreTrainedModel:
    """The model in a folder as anybody loads it, where the compact one is."""
    model = compaction.model
    reloaded: PreTrainedModel = type(model).from_pretrained(folder, dtype=model.dtype)
    nn.Module.to(reloaded, model.device)
    return reloaded


def tolerance(expected: list[Tensor]) -> float:
    """How far outputs in float32 may be from the `expected` ones: other sums round otherwise."""
    return _TOLERANCE * max(1.0, *map(_largest, expected))


def largest_difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest absolute difference of outputs: none of infinities that are equal, infinite where one is nan."""
    return max(
        float((a - b).abs().masked_fill(a == b, 0).nan_to_num(nan=torch.inf, posinf=torch.inf).max())
        for a, b in zip(one, other, strict=True)
    )


def _largest(output: Tensor) -> float:
    """The largest absolute value of an output that is a finite number; 0 where none is."""
    return float(output.abs().nan_to_num(nan=0.0, posinf=0.0).max())
