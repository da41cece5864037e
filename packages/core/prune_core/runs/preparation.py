"""Everything that a run needs, made and checked before it writes anything: `prune run` and its dry run share it."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from prune_core.compaction import choose
from prune_core.compaction.alignment import Alignment
from prune_core.compaction.layers import origins
from prune_core.compactor import Compactor
from prune_core.distillation.lessons import refuse_redrawn
from prune_core.distillation.teacher import Teacher, for_student
from prune_core.distributed.agreement import main_first, processes
from prune_core.embeddings.bits import need_word_embeddings
from prune_core.errors import ModelError, RecipeError, brief, listed
from prune_core.folders.loading import structure_of
from prune_core.folders.portable import needs_of, refuse_unportable
from prune_core.folders.pretrained import read_config
from prune_core.folders.sentence_transformers import companions
from prune_core.logs import at_level
from prune_core.measure import pick_device
from prune_core.plugins import Plugins, import_target
from prune_core.recipe import FillSection, QuantizeSection, Recipe, TrainingSection
from prune_core.rewriting import depth
from prune_core.rewriting.quantization import need_linears, need_torchao
from prune_core.rewriting.simplify import NoNorms, Relu, Simplified
from prune_core.runs.configuring import plugins_of, strategy_config, task_config
from prune_core.runs.places import absolute
from prune_core.strategy import Context, Progress, Strategy
from prune_core.structure import ModelStructure, model_type
from prune_core.task import Task
from prune_core.tasks.labels import are_numbers, label_names
from prune_core.training import check_training, steps_of
from prune_core.verification import trial

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

FILL_SHARE = 0.25
"""Length of a fill that nothing is said about, as a share of the fine-pruning before it."""


@dataclass(frozen=True)
class Job:
    """A recipe with what it names: plugins, task and device."""

    recipe: Recipe
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

    @property
    def teacher(self) -> str:
        """ "self", "none" or the path of a model: what the recipe says, or what "auto" means here."""
        if self.recipe.teacher != "auto":
            return self.recipe.teacher
        return "self" if self.trained_head else "none"


@dataclass(frozen=True)
class Preparation:
    """What a training starts from. `student` is a copy of the dense model with the strategy attached.

    `share` of the dense model's prunable weights is in the student's: less than 1 where it starts without some layers.
    `fill` and `quantize` are trainings of the compact model, None where there is none to do.
    """

    job: Job
    dense: PreTrainedModel
    teacher: PreTrainedModel | None
    features: Dataset
    student: PreTrainedModel
    strategy: Strategy
    compactor: Compactor
    fill: TrainingSection | None
    quantize: TrainingSection | None
    share: float = 1.0


def make_job(recipe: Recipe, device: str | None = None) -> Job:
    """The job of a recipe with a model and a task; PluginError, DataError or ModelError where they cannot be had."""
    plugins = plugins_of(recipe)
    assert recipe.task.name is not None
    assert recipe.model is not None
    config = task_config(recipe.task, plugins)
    task: Task = plugins.load("tasks", recipe.task.name)(config, recipe.model)
    return Job(recipe, plugins, task, pick_device(device or recipe.device).type)


def trained_job(recipe: Recipe, device: str | None = None) -> Job:
    """As `make_job`; ModelError too where the model's head is not trained for the task's labels."""
    job = make_job(recipe, device)
    if not job.trained_head:
        raise ModelError(
            f"{job.model_path} has no head trained for the labels of these data (found: "
            f"{describe_head(job.model_path)}): its figures would be those of chance; fine-tune it first"
        )
    return job


def demonstration(recipe: Recipe, folder: Path, **changes: Any) -> Recipe:
    """The recipe with the demonstration's model and task in it, made in `folder` where they are not there yet.

    RecipeError in one of several processes.
    """
    if processes() > 1:
        raise RecipeError("the demonstration is a run of one process: start it as prune run, or give model and task")
    from prune_core.runs.demo import prepare_demo

    model, task = prepare_demo(folder, recipe.training.seed, **changes)
    return absolute(recipe.model_copy(update={"model": model, "task": task}))


@contextmanager
def rehearsal(recipe: Recipe) -> Iterator[Preparation]:
    """The preparation of the demonstration on a dense model of one step, all of it in a folder that is thrown away.

    So a mistake is found before a minute is spent on the dense model, or a run is overwritten.
    """
    with tempfile.TemporaryDirectory() as folder:
        with at_level("prune_core.runs.demo", logging.WARNING):
            recipe = demonstration(recipe, Path(folder), max_steps=1, use_cpu=True)
        yield prepare(recipe)


def prepare(recipe: Recipe) -> Preparation:
    """Load, attach and check all that the run of a resolved recipe needs. Nothing is written.

    Raises the PruneError that says what is wrong: the recipe, a plugin, the data, a model, or the strategy on it.
    """
    section = recipe.training
    with main_first():
        job = make_job(recipe)
    set_seed(section.seed)
    dense = job.task.load_model(job.model_path)
    check_training(section, job.device, dense)
    companions(job.model_path, dense)  # what cannot be copied must not show after the training only
    _check_baseline(job)
    teacher = _teacher(job, dense)
    with main_first():
        features = job.task.train()
        job.task.validation()  # missing or broken data must not show after the training only
    start = _start(job, dense, features)
    structure = structure_of(start, job.plugins)
    student, strategy = copy.deepcopy(start), _strategy(job)
    steps = steps_of(section, len(features))
    if section.eval_steps and section.eval_steps > steps:
        logger.warning(
            "training.eval_steps: %d is more than the %d steps of the training: nothing is evaluated before its end",
            *(section.eval_steps, steps),
        )
    calibration = partial(calibration_batches, job.task, features, section)
    strategy.prepare(Context(student, structure, steps, section.seed, calibration))
    if section.sharded:
        strategy.unsharded()
    strategy.step(Progress(0, steps))  # masks may be asked for from now on; the Trainer will say it again
    _rehearse(job, teacher, student, features)
    masks = strategy.masks()
    compactor = choose(masks, recipe.compactor, job.plugins)
    compactor.check(start, structure.under(masks))
    Alignment(recipe.align).applied(compactor)
    if recipe.embedding_bits:
        need_word_embeddings(start, recipe.embedding_bits)
    if recipe.portable:
        families = job.plugins.families(model_type(dense))[0] if structure.layout is None else []
        needs = needs_of(dense.config, sparse=masks.sparse, no_norm=recipe.simplify.no_norm)
        refuse_unportable(families, *needs)
    return Preparation(
        job=job,
        dense=dense,
        teacher=teacher,
        features=features,
        student=student,
        strategy=strategy,
        compactor=compactor,
        fill=_fill_training(recipe, fills=strategy.fills, sparse=masks.sparse),
        quantize=_quantize_training(recipe, structure, sparse=masks.sparse),
        share=structure.size(start) / structure_of(dense, job.plugins).size(dense),
    )


def make_teacher(job: Job, model: PreTrainedModel | None, student: PreTrainedModel) -> Teacher | None:
    """The recipe's teacher for a student; it does without what this one cannot imitate, with a warning."""
    if model is None:
        return None
    section = for_student(job.recipe.distillation, model, student)
    return Teacher(model, job.task, section, origins=origins(student.config))


def calibration_batches(task: Task, features: Dataset, section: TrainingSection) -> Iterable[dict[str, Tensor]]:
    """Training batches, labels included, in an order that follows from the seed; each call starts anew."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(section.seed)).tolist()
    for start in range(0, len(order), section.batch_size):
        yield task.collate([features[index] for index in order[start : start + section.batch_size]])


def describe_head(path: str) -> str:
    """What a model is and predicts, for messages: its class and the first of its labels."""
    config = read_config(path)
    labels = [str(label) for label in (config.id2label or {}).values()]
    listed = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
    return f"{(config.architectures or [config.model_type])[0]} with {len(labels)} labels: {listed}"


def _check_baseline(job: Job) -> None:
    """ModelError where the model to compare with cannot be loaded: that must not show after the training only."""
    baseline = job.recipe.measure.baseline
    if baseline is None or baseline == job.model_path:
        return
    try:
        job.task.load_model(baseline)
    except ModelError as error:
        raise ModelError(f"measure.baseline: {error}") from error


def _strategy(job: Job) -> Strategy:
    spec = job.plugins.strategy(job.recipe.strategy.name)
    strategy: Strategy = import_target(spec.target)(strategy_config(job.recipe, job.plugins))
    simplify = job.recipe.simplify
    parts = [kind() for kind, asked in ((Relu, simplify.relu), (NoNorms, simplify.no_norm)) if asked]
    return Simplified(strategy, simplify.share, parts) if parts else strategy


def _teacher(job: Job, dense: PreTrainedModel) -> PreTrainedModel | None:
    if job.teacher == "none":
        if job.task.needs_teacher:
            raise RecipeError(
                f"teacher: none, but the data of {job.recipe.task.name} hold nothing to learn without one: "
                "give self, another model, or what the task says of labels (`prune tasks NAME`)"
            )
        return None
    path = job.model_path if job.teacher == "self" else job.teacher
    if not job.task.has_trained_head(path):
        raise RecipeError(
            f"teacher: {path} has no head trained for these labels (found: {describe_head(path)}); "
            "fine-tune it first, give another, or --teacher none"
        )
    if job.teacher == "self":
        return copy.deepcopy(dense)
    _same_tokens(job.task.processor, path)
    _same_labels(dense, path)
    return job.task.load_model(path)


def _start(job: Job, dense: PreTrainedModel, features: Dataset) -> PreTrainedModel:
    """What the student is a copy of: the dense model, less the layers that the recipe removes.

    StructureError where a layout that no family of ours vouches for makes another function, or where the
    shorter model is another one than the dense model with these layers bypassed.
    """
    structure = structure_of(dense, job.plugins)
    shorter, shortening = depth.shortened(dense, structure, job.recipe.depth)
    if not trial.needed(structure) and not shortening.gone:
        return dense
    batch = job.task.model_inputs(job.task.collate([features[index] for index in range(min(4, len(features)))]))
    if trial.needed(structure):
        trial.prove(dense, structure, batch)
    if shortening.gone:
        depth.prove(dense, shorter, shortening.gone, batch)
    return shorter


def _rehearse(job: Job, model: PreTrainedModel | None, student: PreTrainedModel, features: Dataset) -> None:
    """RecipeError where the distillation that the recipe asks for cannot be done."""
    section, teacher = job.recipe.distillation, make_teacher(job, model, student)
    if teacher is None and section != type(section)():
        logger.warning(
            "there is no teacher, so the recipe's distillation does nothing: give --teacher self, or a model"
        )
    if teacher is not None and (section.layers or section.attention_maps):
        teacher.rehearse(student, job.task.collate([features[0]]))
    if teacher is not None and section.cache:
        refuse_redrawn(job.task, features)


def _same_tokens(processor: Any, teacher: str) -> None:
    """RecipeError where the teacher would read other tokens than the model's in the ids that it is given."""
    if not hasattr(processor, "get_vocab"):
        return
    try:
        theirs = AutoTokenizer.from_pretrained(teacher, trust_remote_code=False).get_vocab()
    except Exception as error:  # a missing vocabulary shows up as almost any error
        raise RecipeError(
            f"teacher: {teacher} holds no tokenizer to compare with the model's: {brief(error)}; save its own there"
        ) from error
    ours = processor.get_vocab()
    other = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if other:
        ids = f"{other[0]!r} is {ours.get(other[0])} in the model's, {theirs.get(other[0])} in the teacher's"
        raise RecipeError(
            f"teacher: {teacher} has another vocabulary than the model, {len(other)} tokens differ ({ids}): "
            "it would read other words; give a teacher with the model's tokenizer"
        )


def _same_labels(dense: PreTrainedModel, teacher: str) -> None:
    """RecipeError where the teacher's classes are others, or in another order: numbers in the data fit both heads."""
    ours, theirs = label_names(dense.config), label_names(read_config(teacher))
    if "Classification" not in type(dense).__name__ or len(ours) < 2 or are_numbers(ours) or are_numbers(theirs):
        return
    if [name.casefold() for name in ours] != [name.casefold() for name in theirs]:
        raise RecipeError(
            f"teacher: the labels of {teacher} are {listed(theirs)}, those of the model {listed(ours)}: it would teach "
            "other classes; give one with the model's labels in their order, or name alike what is alike (config.json)"
        )


def _fill_training(recipe: Recipe, *, fills: bool, sparse: bool) -> TrainingSection | None:
    """The training that a fill is, None for no fill; RecipeError where there is nothing that may be filled."""
    found = _after(recipe, recipe.fill, asked=fills)
    if not fills and recipe.fill.epochs is None and recipe.fill.max_steps is None:
        _refuse_a_rate_for_nothing(recipe)
    if found is not None and sparse:
        raise _dense_again("fill", recipe)
    return found


def _quantize_training(recipe: Recipe, structure: ModelStructure, *, sparse: bool) -> TrainingSection | None:
    """The training for int8, None for none; RecipeError where it cannot be."""
    if recipe.quantize.bits is None:
        return None
    if sparse:
        raise _dense_again("quantize", recipe)
    need_torchao()
    need_linears(structure)
    return _after(recipe, recipe.quantize, asked=True)


def _after(recipe: Recipe, further: FillSection | QuantizeSection, *, asked: bool) -> TrainingSection | None:
    """A training of the compact model; None for none. `asked`: it is to be even where its length is not said."""
    epochs, steps, section = further.epochs, further.max_steps, recipe.training
    if epochs is None and steps is None:
        if not asked:
            return None
        epochs = section.epochs * FILL_SHARE
        steps = math.ceil(section.max_steps * FILL_SHARE) if section.max_steps else None
    if steps == 0 or (steps is None and epochs == 0):
        return None
    rate = further.learning_rate or section.learning_rate / 2
    return section.model_copy(update={"epochs": epochs or 1.0, "max_steps": steps, "learning_rate": rate})


def _refuse_a_rate_for_nothing(recipe: Recipe) -> None:
    if recipe.fill.learning_rate is not None:
        raise RecipeError(
            f"fill.learning_rate: {recipe.strategy.name} does not fill by itself, so it is the rate of nothing: give "
            "fill.epochs or fill.max_steps as well, or leave it out"
        )


def _dense_again(field: str, recipe: Recipe) -> RecipeError:
    return RecipeError(
        f"{field}: {recipe.strategy.name} leaves zeros out on disk, further training would make them weights again: "
        f"leave {field} out"
    )
