"""The life of a run: fine-prune, compact, verify, fill, evaluate, measure, report."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from prune_core.compaction.alignment import Alignment, align
from prune_core.compaction.layers import origins
from prune_core.compactor import Compaction
from prune_core.distillation.lessons import kept_lessons
from prune_core.distillation.teacher import showing_attention
from prune_core.distributed.agreement import agreed, check_shared, joined, launched_sharded, main_first, on_main
from prune_core.embeddings.rounding import Rounding, round_measured
from prune_core.files import replacing, write_text
from prune_core.folders.card import Measured, carry_card, write_card
from prune_core.folders.loading import structure_of
from prune_core.folders.sentence_transformers import companions
from prune_core.folders.shipping import portably
from prune_core.kit.fill import fill_zeros
from prune_core.masks import MaskSet
from prune_core.measure import compare, fitting, pick_device
from prune_core.recipe import Recipe, TrainingSection
from prune_core.rewriting.quantization import int8
from prune_core.rewriting.quantization import rounding as int8_rounding
from prune_core.runs.configuring import resolved
from prune_core.runs.densities import lowest, members, report
from prune_core.runs.places import absolute_path
from prune_core.runs.preparation import (
    Job,
    Preparation,
    demonstration,
    make_teacher,
    prepare,
    rehearsal,
    trained_job,
)
from prune_core.runs.report import Results, provenance
from prune_core.runs.resuming import finished, keep_beginning, pruned
from prune_core.runs.workspace import Workspace, default_output, open_workspace
from prune_core.strategy import Strategy
from prune_core.training import (
    PruningTrainer,
    ShardedTrainer,
    arguments,
    evaluation_arguments,
    is_text,
    make_trainer,
    steps_of,
    train,
)
from prune_core.training.progress import progress_bar
from prune_core.verification.verify import Verification, digests, expect, real_batches, save_verified, told, verify

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One training of a run: its name, what it trains and how, and the strategy that takes part, if one does."""

    name: str
    model: PreTrainedModel
    section: TrainingSection
    strategy: Strategy | None = None


def run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Do the whole of a recipe, or what is left of it with `resume`; returns the manifest.

    Raises the PruneError that tells what is wrong. A mistake that can be known beforehand is told before anything is
    written or overwritten; after that, what was done stays in the folder and can be resumed. Started by torchrun or
    accelerate in several processes, all train and evaluate, and the main one alone writes and measures.
    """
    with _opened(recipe, resume=resume, overwrite=overwrite) as (whole, workspace):
        life = _through if whole.densities else _run
        manifest = life(whole, workspace, resume=resume, overwrite=overwrite)
        on_main(lambda: shutil.rmtree(workspace.teacher, ignore_errors=True))
        return manifest


def check(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Check everything that a run needs, short of training, and write nothing; returns what it would do."""
    output = str(recipe.output or "runs/DATE-STRATEGY")
    with _opened(recipe, resume=resume, overwrite=overwrite) as (whole, _):
        if whole.model is not None:
            ready = prepare(lowest(whole))
            return _plan(ready, f"{whole.model} ({type(ready.dense).__name__})") | {"output": output}
        with rehearsal(whole) as ready:
            return _plan(ready, "a small ViT, trained from scratch") | {"output": output}


@contextmanager
def _opened(recipe: Recipe, *, resume: bool, overwrite: bool) -> Iterator[tuple[Recipe, Workspace]]:
    """The resolved recipe of a run and its folder, the same in all of its processes, which are joined."""
    recipe = resolved(recipe)
    if launched_sharded():
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"sharded": True})})
    with joined(pick_device(recipe.device).type):
        whole = recipe.model_copy(update={"output": agreed(recipe.output or default_output(recipe))})
        with _shared(whole, resume=resume, overwrite=overwrite) as workspace:
            yield whole, workspace


@contextmanager
def _shared(recipe: Recipe, *, resume: bool, overwrite: bool) -> Iterator[Workspace]:
    """The folder of a run, in all of its processes; the main one has made sure of it and holds it."""
    with ExitStack() as stack:
        opened = open_workspace(recipe, resume=resume, overwrite=overwrite)
        yield on_main(lambda: stack.enter_context(opened))


def evaluate_folder(recipe: Recipe) -> dict[str, float]:
    """Figures of the recipe's model, dense or compact, on its task's validation data."""
    job = trained_job(recipe)
    return evaluate_model(job, job.task.load_model(job.model_path))


def _run(recipe: Recipe, workspace: Workspace, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    started, done = time.time(), on_main(lambda: finished(workspace)) if resume else None
    if done:
        return done
    ready = _begun(recipe, workspace, resume=resume, overwrite=overwrite)
    masks = _fine_pruned(ready, workspace)
    compaction, verification = _compacted(ready, workspace, masks)
    compaction = _filled(ready, workspace, compaction)
    rounding = _rounded(ready, compaction)
    verification = _saved(ready, workspace, compaction, verification)
    manifest = _report(ready, workspace, compaction, verification, rounding)
    manifest |= {"seconds": round(time.time() - started, 1)}
    measured = Measured(manifest, ready.job.recipe.task)
    on_main(lambda: write_card(workspace.model, compaction, ready.job.model_path, measured))
    on_main(lambda: workspace.write_manifest(manifest))
    return manifest


def _through(recipe: Recipe, workspace: Workspace, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    """Run after run, each at one of the densities; what is done already is left as it is."""
    job = _begun(recipe, workspace, resume=resume, overwrite=overwrite).job  # its models are let go
    manifests = []
    for member in members(job, workspace.folder):
        again = agreed(Workspace(Path(str(member.output))).is_run())
        with _shared(member, resume=again, overwrite=False) as own:
            own = replace(own, lessons=workspace.teacher)
            manifests.append(_run(member, own, resume=again, overwrite=False))
    manifest = report(workspace.folder, manifests)
    on_main(lambda: workspace.write_manifest(manifest))
    return manifest


def _begun(recipe: Recipe, workspace: Workspace, *, resume: bool, overwrite: bool) -> Preparation:
    """The run of a resolved recipe, ready to train, and its folder ready to be written to: in this order."""
    recipe = recipe.model_copy(update={"output": absolute_path(workspace.folder)})
    if recipe.model is not None:
        ready = prepare(lowest(recipe))
        on_main(lambda: workspace.begin(overwrite=overwrite))
        check_shared(workspace.folder)
    else:
        if not resume:
            with rehearsal(recipe):
                pass
        workspace.begin(overwrite=overwrite)
        write_text(workspace.recipe, recipe.dump())  # the dense model takes a minute: it can be resumed as well
        recipe = demonstration(recipe, workspace.folder)
        ready = prepare(lowest(recipe))
    named = partial(write_text, workspace.recipe, recipe.dump())
    noted = partial(keep_beginning, workspace, ready, recipe)
    for step in (noted, named) if resume else (named, noted):  # with a recipe alone the folder is a run's already
        on_main(step)
    return ready


def _plan(ready: Preparation, model: str) -> dict[str, Any]:
    job, section = ready.job, ready.job.recipe.training
    examples = len(ready.features)
    return {
        "model": model,
        "task": f"{job.recipe.task.name}, {examples} examples to train on, {len(job.task.validation())} to evaluate on",
        "strategy": job.recipe.strategy.name,
        "compactor": type(ready.compactor).__name__,
        **_layers(ready),
        "teacher": job.teacher,
        "steps": steps_of(section, examples),
        "device": job.device,
    }


def _layers(ready: Preparation) -> dict[str, str]:
    """How many layers each stack keeps, where any lost some."""
    stacks = origins(ready.student.config).items()
    return {f"{key.removesuffix('layer.')}layers": f"{len(one) - 1} of {one[-1]}" for key, one in stacks}


def _fine_pruned(ready: Preparation, workspace: Workspace) -> MaskSet:
    """Masks and masked model of this run, trained now unless they are there."""
    if not on_main(lambda: pruned(workspace)):
        _train(ready, workspace, Stage("prune", ready.student, ready.job.recipe.training, ready.strategy))
        on_main(lambda: _finish(ready, workspace))
        ready.student.cpu()  # from here on it is only in the way
    return MaskSet.load(workspace.masks)


def _finish(ready: Preparation, workspace: Workspace) -> None:
    """Write masks and masked model."""
    masks = ready.strategy.finish()
    beside = companions(ready.job.model_path, ready.student)
    with replacing(workspace.masked) as draft:
        ready.student.save_pretrained(draft)
        ready.job.task.processor.save_pretrained(draft)
        if beside is not None:
            beside.copy_to(draft)
        carry_card(ready.job.model_path, draft)
    masks.save(workspace.masks, structure_of(ready.student, ready.job.plugins).sizes())


def _compacted(ready: Preparation, workspace: Workspace, masks: MaskSet) -> tuple[Compaction, Verification]:
    task = ready.job.task
    masked, batches = task.load_model(str(workspace.masked)), list(real_batches(task))
    expected, structure = expect(masked, batches), structure_of(masked, ready.job.plugins)

    def aligned() -> Alignment:
        """As the run has it already: what is trained later depends on it."""
        found = Alignment.load(workspace.alignment, ready.job.recipe.align)
        if found is None:
            found = align(masked, masks, structure, ready.job.recipe)
            found.save(workspace.alignment)
        return found

    compactor = on_main(aligned).applied(ready.compactor)
    with told():
        compaction = compactor.compact(masked, masks, structure, inplace=True)
    return compaction, on_main(lambda: verify(expected, compaction, batches).enforce())


def _filled(ready: Preparation, workspace: Workspace, compaction: Compaction) -> Compaction:
    """The compact model after what further training there is to do."""
    if ready.fill is not None:
        fill_zeros(compaction.model, compaction.masks, ready.fill.seed)
        _train(ready, workspace, Stage("fill", compaction.model, ready.fill))
    if ready.quantize is not None:
        with int8_rounding(compaction.model, _linears(ready, compaction)):
            _train(ready, workspace, Stage("quantize", compaction.model, ready.quantize))
    return compaction


def _linears(ready: Preparation, compaction: Compaction) -> list[str]:
    return structure_of(compaction.model, ready.job.plugins).left_in(compaction.model)


def _rounded(ready: Preparation, compaction: Compaction) -> Rounding | None:
    """Round the word embeddings of the model that ships, and measure what it changes, where that is asked for."""
    bits = ready.job.recipe.embedding_bits
    if bits is None:
        return None
    in_full = evaluate_model(ready.job, compaction.model)
    compaction.model.cpu()
    return replace(round_measured(compaction.model, bits, list(real_batches(ready.job.task))), in_full=in_full)


def _saved(
    ready: Preparation, workspace: Workspace, compaction: Compaction, verification: Verification
) -> Verification:
    """Write the model that ships, proven as it is now: what was proven before a fill says nothing of it."""
    compaction.model.cpu()
    task, batches = ready.job.task, list(real_batches(ready.job.task))
    shipped: AbstractContextManager[Path] = nullcontext(workspace.model)
    if ready.job.recipe.portable:
        shipped = portably(workspace.model, ready.job.plugins, compaction, batches, ready.job.model_path)

    def save() -> float:
        with shipped as folder:
            return save_verified(compaction, folder, batches, task.processor, ready.job.model_path)

    return replace(verification, compact_vs_reloaded=on_main(save))


def _train(ready: Preparation, workspace: Workspace, stage: Stage) -> None:
    """Do one training of a run, or what is left of it."""
    job, features = ready.job, ready.features
    teacher = make_teacher(job, ready.teacher, stage.model)
    if teacher is not None and job.recipe.distillation.cache:
        teacher.to(torch.device(job.device))
        with main_first():
            memory = kept_lessons(teacher, features, workspace.teacher, stage.section.eval_batch_size)
        teacher.to(torch.device("cpu"))
        teacher.memory = memory
    args = arguments(stage.section, workspace.checkpoints / stage.name, job.device, is_text(features))
    with showing_attention(stage.model, teacher):
        parts: dict[str, Any] = {"teacher": teacher, "strategy": stage.strategy, "patience": stage.section.patience}
        if stage.section.eval_steps:
            parts["eval_dataset"] = job.task.validation()
        kind = ShardedTrainer if stage.section.sharded else PruningTrainer
        trainer = kind(model=stage.model, args=args, train_dataset=features, task=job.task, **parts)
        train(trainer, workspace.metrics, stage.name)


def _report(
    ready: Preparation,
    workspace: Workspace,
    compaction: Compaction,
    verification: Verification,
    rounding: Rounding | None,
) -> dict[str, Any]:
    job, model, (dense, path, known) = ready.job, compaction.model, _baseline(ready)
    comparison = on_main(lambda: compare(model.cpu(), dense, fitting(job.recipe.measure, dense), job.device))
    results = Results(
        metric=job.task.metric,
        dense=evaluate_model(job, dense) if known else {},
        pruned=evaluate_model(job, model),
        int8=_in_int8(ready, compaction),
        asked=ready.strategy.target,
        further="the fill" if ready.fill else "the training for int8" if ready.quantize else None,
        compaction=compaction,
        verification=verification,
        rounding=rounding,
        comparison=comparison.with_folders(workspace.model, Path(path)),
        greater_is_better=job.task.greater_is_better,
        alignment=on_main(lambda: Alignment.load(workspace.alignment, job.recipe.align)) or Alignment(),
        share=ready.share,
        portable=job.recipe.portable,
        whole={unit.key: unit.count for unit in structure_of(ready.dense, job.plugins).units},
    )
    return {
        "output": str(workspace.folder),
        "strategy": job.recipe.strategy.name,
        "seed": job.recipe.training.seed,
        "teacher": job.teacher,
        **results.manifest(),
        "sha256": digests(workspace.model),
        **provenance(job.plugins),
    }


def _in_int8(ready: Preparation, compaction: Compaction) -> dict[str, float]:
    """Figures of the compact model in int8, on the CPU, where it was trained for that."""
    if ready.quantize is None:
        return {}
    return evaluate_model(replace(ready.job, device="cpu"), int8(compaction.model.cpu(), _linears(ready, compaction)))


def _baseline(ready: Preparation) -> tuple[PreTrainedModel, str, bool]:
    """The model to compare with, its path, and whether its head is trained, so that its figures say something."""
    job, path = ready.job, ready.job.recipe.measure.baseline
    if path is None:
        return ready.dense.cpu(), job.model_path, job.trained_head
    return job.task.load_model(path), path, job.task.has_trained_head(path)


def evaluate_model(job: Job, model: PreTrainedModel) -> dict[str, float]:
    """Figures of `model` on the task's validation data; those of a further set end in its name."""
    figures: dict[str, float] = {}
    sets = {"": job.task.validation(), **job.task.further_validation()}
    with tempfile.TemporaryDirectory() as folder:  # a Trainer makes one even where it writes nothing
        trainer = make_trainer(model, job.task, evaluation_arguments(job.recipe.training, Path(folder), job.device))
        for name, features in sets.items():
            with progress_bar(trainer, f"evaluate {name}".strip()):
                found = trainer.predict(features).metrics or {}
            named = {figure.removeprefix("test_"): value for figure, value in found.items() if _is_figure(figure)}
            figures |= {f"{figure}_{name}".strip("_"): value for figure, value in named.items()}
    return figures


def _is_figure(name: str) -> bool:
    timing = ("runtime", "per_second", "model_preparation_time")
    return not any(word in name for word in timing)
