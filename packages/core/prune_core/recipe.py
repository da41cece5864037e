"""Recipe: a whole run as one validated tree. YAML in, YAML out; the flags of the command line are the same tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from prune_core.described import ArchitectureSection
from prune_core.errors import RecipeError, nearest
from prune_core.fields import Fields, FilePath, NameOrPath


class TaskSection(Fields):
    """What the model is trained to do, and on which data; the task's own fields stand beside these.

    Those are validated by the task's configuration (`prune tasks NAME`).
    """

    model_config = ConfigDict(extra="allow")

    name: str | None = Field(None, description="Task, one of `prune tasks`, such as squad or text-classification.")
    dataset: NameOrPath | None = Field(None, description="Hub data set, instead of files, such as nyu-mll/glue.")
    dataset_config: str | None = Field(None, description="Configuration of the hub data set, such as sst2.")
    train_split: str = Field("train", description="Split of the hub data set to train on.")
    validation_split: str = Field("validation", description="Split of the hub data set to evaluate on.")
    train_file: FilePath | None = Field(
        None, description="csv, json, jsonl or parquet file to train on, or a folder of images with one for each label."
    )
    validation_file: FilePath | None = Field(None, description="The same to evaluate on.")
    further_validation: dict[str, str] = Field(
        {}, description="Name -> split (or file) that is evaluated as well; its figures end in _NAME."
    )
    columns: dict[str, str] = Field({}, description="Role -> column, such as text: sentence; roles are the task's.")
    metric: str | None = Field(None, description="Figure that the model is judged by; by default the task's own.")
    max_train_samples: int | None = Field(None, ge=1, description="Train on the first so many examples only.")
    max_validation_samples: int | None = Field(None, ge=1, description="Evaluate on the first so many only.")

    @model_validator(mode="after")
    def _one_source(self) -> "TaskSection":
        if self.dataset and (self.train_file or self.validation_file):
            raise ValueError("name a hub dataset or local files, not both")
        return self


class StrategySection(Fields):
    """The strategy's name, and its own fields beside it; those are validated by the strategy's configuration."""

    model_config = ConfigDict(extra="allow")
    name: str = Field("hybrid", description="Strategy, one of `prune strategies`.")

    def fields(self) -> dict[str, Any]:
        """The strategy's own fields."""
        return dict(self.model_extra or {})


class TrainingSection(Fields):
    """Fine-pruning, through transformers' Trainer."""

    epochs: float = Field(3.0, gt=0, description="Passes over the training data.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    batch_size: int = Field(32, ge=1, description="Examples a batch, in each process.")
    eval_batch_size: int = Field(64, ge=1, description="Examples a batch in evaluation, in each process.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak rate of the weights (scores have their own).")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, description="Decay of the weights, biases and norms aside.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped at this norm.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    save_steps: int = Field(500, ge=1, description="Steps from one checkpoint to the next.")
    logging_steps: int = Field(50, ge=1, description="Steps from one log line to the next.")
    eval_steps: int | None = Field(
        None, ge=1, description="Steps from one evaluation to the next; the best one at the final density is kept."
    )
    patience: int | None = Field(
        None, ge=1, description="Training ends after so many evaluations at the final density without a better one."
    )
    gradient_accumulation: int = Field(1, ge=1, description="Batches whose gradients make one optimizer step.")
    gradient_checkpointing: bool = Field(
        False, description="Activations are computed again in the backward pass: less memory, slower."
    )
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32", description="Arithmetic of the training; weights stay float32. fp16 needs a GPU."
    )
    sharded: bool = Field(
        False,
        description="Weights, gradients and optimizer states are divided among the processes (FSDP2): for models that "
        "do not fit one device.",
    )
    compile: bool = Field(False, description="The forward and backward pass go through torch.compile.")
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Where figures are shown while training, beside metrics.jsonl."
    )

    @model_validator(mode="after")
    def _judged(self) -> "TrainingSection":
        if self.patience is not None and self.eval_steps is None:
            raise ValueError("patience counts evaluations: give eval_steps as well")
        return self


class DistillationSection(Fields):
    """Weights of the loss with a teacher; without one the loss is the task's own."""

    temperature: float = Field(2.0, gt=0, description="Softens both distributions of the logits.")
    cross_entropy: float = Field(0.1, ge=0, description="Weight of the task's own loss.")
    logits: float = Field(0.9, ge=0, description="Weight of T^2 KL(teacher || student).")
    hidden_states: float = Field(0.5, ge=0, description="Weight of the mean squared error of the hidden states.")
    attention_maps: float = Field(
        0.0, ge=0, description="Weight of the squared error of the attention maps, means over the heads."
    )
    layers: dict[int, int] | None = Field(
        None,
        description="Layer of the student -> layer of the teacher that teaches it, 0 being what enters the first; by "
        "default the same, or spread evenly over a teacher of another depth.",
    )
    cache: bool = Field(
        False, description="Store the teacher's outputs on disk, so that it runs only once for each example."
    )


class SimplifySection(Fields):
    """Simpler functions that are blended into the model while it is fine-pruned."""

    relu: bool = Field(False, description="The activation, such as GELU, becomes ReLU.")
    no_norm: bool = Field(False, description="LayerNorms become affine layers with fixed statistics (NoNorm).")
    share: float = Field(0.5, gt=0, le=1, description="Share of the steps over which it is blended in.")

    @model_validator(mode="after")
    def _of_something(self) -> "SimplifySection":
        if self.share != type(self).model_fields["share"].default and not (self.relu or self.no_norm):
            raise ValueError("share alone blends nothing in: give relu or no_norm as well")
        return self


class DepthSection(Fields):
    """Whole layers that are removed before anything is trained; each then hands on what it gets."""

    drop: tuple[str, ...] = Field(
        (), description="Layers to remove, such as layer.1, decoder.layer.4, or a module path; a glob names several."
    )
    keep: int | dict[str, int] | None = Field(
        None,
        description="How many layers stay, spread evenly, the first and the last among them; {encoder: 6, decoder: 3} "
        "where there are several stacks.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "DepthSection":
        counts = self.keep.values() if isinstance(self.keep, dict) else [1 if self.keep is None else self.keep]
        if min(counts, default=0) < 1:
            raise ValueError(f"keep: one layer at least must stay, found {self.keep}")
        if self.drop and self.keep is not None:
            raise ValueError("name the layers to drop or how many to keep, not both")
        return self

    @property
    def asked(self) -> bool:
        """Whether any layer is to go."""
        return bool(self.drop) or self.keep is not None


class FillSection(Fields):
    """Fine-tuning of the compact model after its inner zeros got small random values."""

    epochs: float | None = Field(
        None, ge=0, description="Passes; by default a quarter of training's, if the strategy fills."
    )
    max_steps: int | None = Field(None, ge=0, description="Optimizer steps, instead of epochs; 0 for none.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; by default half of training's.")


class QuantizeSection(Fields):
    """Fine-tuning of the compact model with linears that round as torchao's int8 will."""

    bits: Literal[8] | None = Field(None, description="8: train for int8 after all else; by default not at all.")
    epochs: float | None = Field(None, gt=0, description="Passes; by default a quarter of training's.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; by default half of training's.")

    @model_validator(mode="after")
    def _for_bits(self) -> "QuantizeSection":
        given = [name for name in ("epochs", "max_steps", "learning_rate") if getattr(self, name) is not None]
        if given and self.bits is None:
            raise ValueError(
                f"nothing is trained for int8, so {' and '.join(given)} would do nothing: give bits: 8 too"
            )
        return self


DType = Literal["float32", "tf32", "bfloat16", "float16"]


class MeasureSection(Fields):
    """How the compact model is timed against the dense one, and sizes for `align: auto`."""

    batch_size: int = Field(8, ge=1, description="Examples a batch.")
    length: int = Field(128, ge=1, description="Tokens an example (text models).")
    rounds: int = Field(20, ge=3, description="Interleaved rounds that count.")
    dtype: DType = Field("float32", description="Arithmetic of both; tf32 is float32 with matrix products in TF32.")
    baseline: NameOrPath | None = Field(None, description="Model to compare with; by default the one that is pruned.")


class PluginsSection(Fields):
    """Which plugins may be used."""

    disabled: tuple[str, ...] = Field((), description="Distributions to leave out.")


Align = Literal["auto"] | Annotated[int, Field(ge=1)]
Density = Annotated[float, Field(gt=0, le=1)]
Device = Literal["auto", "cpu", "cuda"]
TEACHERS = ("self", "none", "auto")
"""What a recipe says of the teacher where it names no model."""


class Recipe(Fields):
    """A whole run. With neither model nor task it is the embedded demonstration on scikit-learn's digits."""

    model: NameOrPath | None = Field(None, description="Folder or hub name of the model to prune.")
    task: SerializeAsAny[TaskSection] = TaskSection()
    strategy: StrategySection = StrategySection(name="hybrid")
    densities: tuple[Density, ...] = Field(
        (),
        description="Falling densities, instead of the strategy's: a run through all of them, that leaves a compact "
        "model at each.",
    )
    teacher: NameOrPath = Field(
        "auto", description="self, none, a model; auto: self if the head is trained, else none."
    )
    training: TrainingSection = TrainingSection()
    distillation: DistillationSection = DistillationSection()
    simplify: SimplifySection = SimplifySection()
    depth: DepthSection = DepthSection()
    fill: FillSection = FillSection()
    quantize: QuantizeSection = QuantizeSection()
    architecture: ArchitectureSection = ArchitectureSection()
    compactor: str = Field("auto", description="auto: the one that accepts the masks; or a name.")
    align: Align = Field(
        1,
        description="Feed-forward units keep a few more neurons, up to the next multiple of this number; auto: of 8, "
        "16, 32 or 64, where that is measured to be faster on the device, at the batch size and length of measure.",
    )
    portable: bool = Field(
        False, description="The model gets its own modelling file, to load without prune_core by trust_remote_code."
    )
    embedding_bits: Literal[4, 8] | None = Field(
        None, description="Word embeddings are stored in so many bits, and what that changes is measured."
    )
    measure: MeasureSection = MeasureSection()
    device: Annotated[Device, Field(description="auto takes CUDA where there is one.")] = "auto"
    output: FilePath | None = Field(None, description="Folder of the run; by default runs/DATE-STRATEGY.")
    plugins: PluginsSection = PluginsSection()

    @model_validator(mode="after")
    def _falling(self) -> "Recipe":
        if list(self.densities) != sorted(set(self.densities), reverse=True):
            raise ValueError(f"densities must fall, found {list(self.densities)}")
        if self.densities and self.strategy.fields().get("density") is not None:
            raise ValueError("give strategy.density or several densities, not both")
        return self

    @model_validator(mode="after")
    def _loaded_by_prune_core(self) -> "Recipe":
        if self.embedding_bits and (self.portable or self.compactor == "uniform"):
            other = "portable" if self.portable else "compactor: uniform"
            raise ValueError(f"embedding_bits needs prune_core to load, {other} is to load without it: leave one out")
        return self

    @field_validator("align", mode="before")
    @classmethod
    def _align_is_a_number_or_auto(cls, align: object) -> object:
        asked = int(align) if isinstance(align, str) and align.isdecimal() else align
        if asked == "auto" or (type(asked) is int and asked >= 1):
            return asked
        raise ValueError("a number from 1 on, or auto, was expected")

    @field_validator("teacher")
    @classmethod
    def _teacher_is_a_word_or_a_model(cls, teacher: str) -> str:
        word = teacher.strip().lower()
        if (word in (*TEACHERS, "") and teacher != word) or not word:
            raise ValueError(f"did you mean {word!r}?" if word else "self, none, auto or a model was expected")
        return teacher

    @classmethod
    def parse(cls, data: Any, source: str = "recipe") -> "Recipe":
        """Validate plain data. RecipeError listing every wrong field at once, with the nearest known name."""
        if not isinstance(data, dict):
            raise RecipeError(f"{source}: a recipe is a mapping of fields, found {type(data).__name__}")
        try:
            return cls.model_validate(named(data))
        except ValidationError as error:
            raise RecipeError(explain(error, cls, source)) from error

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a YAML recipe. RecipeError for a file that is missing, not YAML or not a recipe."""
        return cls.parse(read_yaml(path), str(path))

    def dump(self) -> str:
        """The recipe as YAML; `load` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


NAMED = ("strategy", "task")
"""Sections that may be given by their name alone."""


def named(tree: dict[str, Any]) -> dict[str, Any]:
    """The plain data of a recipe with whole sections for those that are given by their name alone."""
    return {**tree, **{key: {"name": tree[key]} for key in NAMED if isinstance(tree.get(key), str)}}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two recipes, as plain data, differ, such as "training.max_steps (10 before, 14 now)"."""
    found = []
    for name in [*now, *(before.keys() - now.keys())]:
        one, other = before.get(name), now.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name} ({one} before, {other} now)")
    return found


def read_yaml(path: Path) -> Any:
    """Plain data of a YAML file; RecipeError when it is missing, not YAML or empty."""
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if data is None:
        raise RecipeError(f"{path} is empty: name a model and a task in it (prune run without a recipe demonstrates)")
    return data


def explain(error: ValidationError, model: type, source: str, prefix: str = "") -> str:
    """One line a wrong field: its path (below `prefix`), what was wrong, what was found, and the nearest known name."""
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        where = ".".join([prefix, *path] if prefix else path) or "recipe"
        if problem["type"] == "extra_forbidden":
            known = _fields(model, path[:-1])
            lines.append(f"{where}: unknown field; {nearest(path[-1], known)}known: {', '.join(known)}")
        else:
            lines.append(f"{where}: {_fault(problem)}")
    return "\n".join(f"{source}: {line}" for line in lines)


def _fault(problem: Any) -> str:
    """What pydantic found wrong; of a whole section the message says itself what was found."""
    found = problem["input"]
    if problem["type"] == "tuple_type":
        return f"a list was expected, such as [{found}], found {found!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return message if problem["type"] == "value_error" and isinstance(found, dict) else f"{message}, found {found!r}"


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None:  # a number or name that tells the members of a list or mapping apart
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
