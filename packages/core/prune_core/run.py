"""The life of a run: fine-prune, compact, verify, fill, evaluate, measure, report."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel, set_seed

from prune_core.compaction import choose
from prune_core.compactor import Compaction
from prune_core.configuring import strategy_config
from prune_core.errors import DataError, RecipeError
from prune_core.files import replacing, write_text
from prune_core.kit.fill import fill_zeros
from prune_core.loading import structure_of
from prune_core.masks import MaskSet
from prune_core.measure import compare, dummy_inputs, folder_size, pick_device
from prune_core.plugins import Plugins, import_target, load_plugins
from prune_core.pretrained import load_saved
from prune_core.progress import ProgressBar
from prune_core.recipe import MeasureSection, Recipe, TaskSection, TrainingSection
from prune_core.report import Results, provenance
from prune_core.saving import save_compact
from prune_core.strategy import Context, Strategy
from prune_core.task import Task
from prune_core.training import arguments, make_trainer, steps_of, train
from prune_core.verify import Verification, real_batches, verify
from prune_core.workspace import Workspace, open_workspace

logger = logging.getLogger(__name__)

DEMO_MEASURE = {"batch_size": 64}
DEMO_TRAINING = {"epochs": 12.0, "batch_size": 64, "learning_rate": 5e-4, "save_steps": 200}

FILL_SHARE = 0.25
"""Length of a fill that nothing is said about, as a share of the fine-pruning before it."""


@dataclass(frozen=True)
class Job:
    """One run, with everything that its stages share."""

    recipe: Recipe
    workspace: Workspace
    plugins: Plugins
    task: Task
    device: str

    @property
    def model_path(self) -> str:
        assert self.recipe.model is not None
        return self.recipe.model

    @property
    def trained_head(self) -> bool:
        return self.task.has_trained_head(self.model_path)


def run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Do the whole of a recipe, or what is left of it with `resume`; returns the manifest.

    Raises the PruneError that tells what is wrong; what was done until then stays in the folder and can be resumed.
    """
    started = time.time()
    workspace = open_workspace(recipe, resume=resume, overwrite=overwrite)
    if workspace.manifest.is_file() and not overwrite:
        return workspace.read_manifest()
    if overwrite and recipe.model is None:
        workspace.clear()
    given, recipe = recipe, _resolved(recipe, workspace)
    job = _job(recipe, workspace)
    _fill_training(job)
    if overwrite and given.model is not None:
        workspace.clear()  # only now: a mistake in the recipe must not cost the run that was there
    write_text(workspace.recipe, recipe.dump())
    set_seed(recipe.training.seed)
    dense = job.task.load_model(job.model_path)
    teacher = _teacher(job, dense)
    masks = _fine_pruned(job, copy.deepcopy(dense), teacher)
    compaction, verification = _compacted(job, masks)
    compaction = _filled(job, compaction, teacher)
    save_compact(compaction, workspace.model, job.task.processor)
    manifest = _report(job, dense, compaction, verification) | {"seconds": round(time.time() - started, 1)}
    workspace.write_manifest(manifest)
    return manifest


def check(recipe: Recipe) -> dict[str, Any]:
    """Check everything that a run needs, short of training; returns what it would do."""
    if recipe.model is None:
        return {
            "model": "a small ViT, trained from scratch",
            "task": "scikit-learn's digits",
            "strategy": recipe.strategy.name,
        }
    job = _job(recipe, Workspace(recipe.output or Path("runs")))
    model = job.task.load_model(job.model_path)
    examples = len(job.task.train())
    steps = steps_of(recipe.training, examples)
    _strategy(job).prepare(Context(model, structure_of(model), steps, recipe.training.seed))
    _fill_training(job)
    return {
        "model": f"{job.model_path} ({type(model).__name__})",
        "task": f"{recipe.task.name}, {examples} examples to train on, {len(job.task.validation())} to evaluate on",
        "strategy": recipe.strategy.name,
        "teacher": _teacher_name(job),
        "steps": steps,
        "device": job.device,
        "output": str(recipe.output or "runs/DATE-STRATEGY"),
    }


def task_of(run_folder: Path) -> tuple[Task, Recipe]:
    """The task and the recipe of a run that was made; RunError or RecipeError when there is none."""
    workspace = Workspace(run_folder)
    recipe = Recipe.load(workspace.recipe)
    return _job(recipe, workspace).task, recipe


def compact_folder(model: Path, masks: Path, output: Path, compactor: str = "auto") -> dict[str, Any]:
    """Compact the masked model in a folder by a file of masks, prove it on random inputs, and write it to `output`."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} exists already; choose another --output")
    dense, decided = load_saved(str(model)), MaskSet.load(masks)
    decided.bake(dense)
    compaction = choose(decided, compactor, load_plugins()).compact(dense, decided, structure_of(dense))
    verification = verify(dense, compaction, [dummy_inputs(dense, 4, 16)]).enforce()
    save_compact(compaction, output, _processor(model))
    return {
        "output": str(output),
        "density": compaction.density,
        "bytes": folder_size(output),
        "verification": asdict(verification),
        "units": [asdict(unit) for unit in compaction.units],
    }


def evaluate_folder(model: str, task: TaskSection, batch_size: int = 64, device: str = "auto") -> dict[str, float]:
    """Figures of a model, dense or compact, on a task's validation data."""
    recipe = Recipe.parse({"model": model, "task": task.model_dump(), "training": {"eval_batch_size": batch_size}})
    job = _job(recipe, Workspace(Path()), device)
    return _evaluate(job, job.task.load_model(model))


def _resolved(recipe: Recipe, workspace: Workspace) -> Recipe:
    """The recipe with everything in it that the run will do, so that it repeats it."""
    changes: dict[str, Any] = {"output": workspace.folder}
    if recipe.model is None:
        from prune_core.demo import prepare_demo

        write_text(workspace.recipe, recipe.dump())
        model, task = prepare_demo(workspace.folder, recipe.training.seed)
        given = recipe.model_dump(exclude_unset=True)
        changes |= {"model": model, "task": task}
        changes["training"] = recipe.training.model_copy(update=DEMO_TRAINING | given.get("training", {}))
        changes["measure"] = recipe.measure.model_copy(update=DEMO_MEASURE | given.get("measure", {}))
    return recipe.model_copy(update=changes)


def _job(recipe: Recipe, workspace: Workspace, device: str | None = None) -> Job:
    plugins = load_plugins(recipe.plugins.disabled)
    assert recipe.task.name is not None
    assert recipe.model is not None
    task: Task = plugins.load("tasks", recipe.task.name)(recipe.task, recipe.model)
    return Job(recipe, workspace, plugins, task, pick_device(device or recipe.device).type)


def _strategy(job: Job) -> Strategy:
    spec = job.plugins.strategy(job.recipe.strategy.name)
    strategy: Strategy = import_target(spec.target)(strategy_config(job.recipe, job.plugins))
    return strategy


def _teacher_name(job: Job) -> str:
    if job.recipe.teacher != "auto":
        return job.recipe.teacher
    return "self" if job.trained_head else "none"


def _teacher(job: Job, dense: PreTrainedModel) -> PreTrainedModel | None:
    name = _teacher_name(job)
    if name == "none":
        return None
    if name == "self":
        return copy.deepcopy(dense)
    teacher = job.task.load_model(name)
    if not job.task.has_trained_head(name):
        raise RecipeError(f"teacher: {name} has no head trained for these labels; fine-tune it first, or give another")
    return teacher


def _fine_pruned(job: Job, model: PreTrainedModel, teacher: PreTrainedModel | None) -> MaskSet:
    """Masks and masked model of this run, trained now unless they are there."""
    workspace, section = job.workspace, job.recipe.training
    if workspace.masks.is_file() and workspace.masked.is_dir():
        return MaskSet.load(workspace.masks)
    features = job.task.train()
    strategy = _strategy(job)
    strategy.prepare(Context(model, structure_of(model), steps_of(section, len(features)), section.seed))
    args = arguments(section, workspace.checkpoints / "prune", job.device, _is_text(features))
    parts = {"strategy": strategy, "teacher": teacher, "distillation": _distillation(job, model, teacher)}
    trainer = make_trainer(model, job.task, args, features, **parts)
    train(trainer, workspace.metrics, "prune")
    masks = strategy.finish()
    with replacing(workspace.masked) as draft:
        model.save_pretrained(draft)
        job.task.processor.save_pretrained(draft)
    masks.save(workspace.masks)
    return masks


def _compacted(job: Job, masks: MaskSet) -> tuple[Compaction, Verification]:
    masked = job.task.load_model(str(job.workspace.masked))
    compaction = choose(masks, job.recipe.compactor, job.plugins).compact(masked, masks, structure_of(masked))
    return compaction, verify(masked, compaction, real_batches(job.task)).enforce()


def _filled(job: Job, compaction: Compaction, teacher: PreTrainedModel | None) -> Compaction:
    """The compact model after its fill, if there is one to do."""
    section = _fill_training(job)
    if section is None:
        return compaction
    _refuse_fill(job, compaction.masks.sparse)
    fill_zeros(compaction.model, compaction.masks, section.seed)
    features = job.task.train()
    args = arguments(section, job.workspace.checkpoints / "fill", job.device, _is_text(features))
    distillation = _distillation(job, compaction.model, teacher)
    trainer = make_trainer(compaction.model, job.task, args, features, teacher=teacher, distillation=distillation)
    train(trainer, job.workspace.metrics, "fill")
    return compaction


def _fill_training(job: Job) -> TrainingSection | None:
    """The training that a fill is, None for no fill; RecipeError where the strategy leaves nothing to fill."""
    fill, section = job.recipe.fill, job.recipe.training
    strategy: type[Strategy] = import_target(job.plugins.strategy(job.recipe.strategy.name).target)
    epochs, steps = fill.epochs, fill.max_steps
    if epochs is None and steps is None:
        if not strategy.fills:
            return None
        epochs = section.epochs * FILL_SHARE
        steps = math.ceil(section.max_steps * FILL_SHARE) if section.max_steps else None
    if steps == 0 or (steps is None and epochs == 0):
        return None
    _refuse_fill(job, getattr(strategy, "sparse", False))
    rate = fill.learning_rate or section.learning_rate / 2
    return section.model_copy(update={"epochs": epochs or 1.0, "max_steps": steps, "learning_rate": rate})


def _refuse_fill(job: Job, sparse: bool) -> None:
    if sparse:
        raise RecipeError(
            f"fill: {job.recipe.strategy.name} leaves zeros out on disk, a fill would make them weights again: "
            "leave fill out"
        )


def _distillation(job: Job, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Any:
    """The recipe's weights; without the hidden states where the teacher's have another shape."""
    section = job.recipe.distillation
    if teacher is None or section.hidden_states == 0:
        return section
    sizes = [(model.config.hidden_size, model.config.num_hidden_layers) for model in (teacher, student)]
    if sizes[0] == sizes[1]:
        return section
    logger.warning(
        "the teacher's hidden states (size, layers) are %s, the student's %s: only logits are distilled", *sizes
    )
    return section.model_copy(update={"hidden_states": 0.0})


def _report(job: Job, dense: PreTrainedModel, compaction: Compaction, verification: Verification) -> dict[str, Any]:
    comparison = compare(compaction.model.cpu(), dense.cpu(), _fitting(job.recipe.measure, dense), job.device)
    results = Results(
        metric=job.task.metric,
        dense=_evaluate(job, dense) if job.trained_head else {},
        pruned=_evaluate(job, compaction.model),
        asked=getattr(strategy_config(job.recipe, job.plugins), "target", None),
        compaction=compaction,
        verification=verification,
        comparison=comparison.with_folders(job.workspace.model, job.workspace.masked),
    )
    return {
        "output": str(job.workspace.folder),
        "strategy": job.recipe.strategy.name,
        "seed": job.recipe.training.seed,
        "teacher": _teacher_name(job),
        "filled": _fill_training(job) is not None,
        **results.manifest(),
        **provenance(job.plugins),
    }


def _fitting(section: MeasureSection, model: PreTrainedModel) -> MeasureSection:
    """The section with no more tokens than the model takes: a run shall not fail at its last stage."""
    positions = getattr(model.config, "max_position_embeddings", None) or section.length
    return section.model_copy(update={"length": min(section.length, positions)})


def _evaluate(job: Job, model: PreTrainedModel) -> dict[str, float]:
    """Figures of `model` on the task's validation data."""
    features = job.task.validation()
    with tempfile.TemporaryDirectory() as folder:  # a Trainer makes one even where it writes nothing
        args = arguments(job.recipe.training, Path(folder), job.device, text=False)
        found = make_trainer(model, job.task, args, callbacks=[ProgressBar("evaluate")]).predict(features).metrics or {}
    return {name.removeprefix("test_"): value for name, value in found.items() if _is_figure(name)}


def _is_figure(name: str) -> bool:
    timing = ("runtime", "per_second", "model_preparation_time")
    return not any(word in name for word in timing)


def _processor(folder: Path) -> Any:
    """Tokenizer or image processor of a model folder, if it has one."""
    for auto in (transformers.AutoTokenizer, transformers.AutoImageProcessor):
        try:
            return auto.from_pretrained(folder)
        except (OSError, ValueError, KeyError, ImportError):
            continue
    return None


def _is_text(features: Any) -> bool:
    return "input_ids" in features.column_names
