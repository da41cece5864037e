"""No operation of a training step waits for the device: on a GPU each wait would leave it idle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.autograd.profiler import record_function
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from prune_core import compact
from prune_core.distillation.teacher import Teacher
from prune_core.folders.loading import structure_of
from prune_core.pruning import Pruning, make_strategy
from prune_core.recipe import DistillationSection, TrainingSection
from prune_core.strategy import Context
from prune_core.structure import Attention
from prune_core.testing.sample_masks import unit_masks
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.training import PruningTrainer, arguments, train
from tests.core.loops import BINARIZERS, BLOCKS, STRATEGIES
from tests.core.waits import AWAY, Waits, without_those_of_transformers


@pytest.fixture(autouse=True)
def _ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without_those_of_transformers(monkeypatch)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts open neurons, which keeps nobody waiting there."""
    monkeypatch.setattr("prune_core.kit.masked.counts_at_once", lambda weight: False)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: float(x.max()),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x[[0, 2]],
        lambda x: x[None, [0, 2]],
        lambda x: x.masked_fill_(x > 0, 0) if x.unique().numel() else x,
    ],
)
@pytest.mark.parametrize("device", [torch.device("cpu"), AWAY])
def test_operations_that_wait_are_seen(device: torch.device, operation: Callable[[torch.Tensor], object]):
    x = torch.randn(8, device=device)
    waits = Waits(device)
    with waits, suppress(RuntimeError, NotImplementedError):  # a tensor without values has none to give
        operation(x)
    assert waits.found


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.ones(8).to(AWAY),
        lambda x: torch.ones(8, dtype=torch.double).to(x),
        lambda x: x.copy_(torch.ones(8)),
        lambda x: x[torch.arange(3)],
        lambda x: x.cpu(),
        lambda x: torch.zeros(8).copy_(x),
        lambda x: x + torch.tensor(1.0, device=AWAY),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.as_tensor([1, 2], device=AWAY),
    ],
)
def test_copies_that_wait_are_seen(operation: Callable[[torch.Tensor], object]):
    waits = Waits()
    with waits, suppress(RuntimeError, NotImplementedError):
        operation(torch.empty(8, device=AWAY))
    assert waits.found


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.ones(8).to(AWAY, non_blocking=True),
        lambda x: x.copy_(torch.ones(8), non_blocking=True),
        lambda x: x[torch.arange(3, device=AWAY)],
        lambda x: torch.where(x > 0, x, x.new_zeros(())).double(),
    ],
)
def test_what_does_not_wait_may_be_done(operation: Callable[[torch.Tensor], object]):
    with Waits() as waits:
        operation(torch.empty(8, device=AWAY))
    assert waits.found == []


@pytest.mark.parametrize("binarizer", [None, *BINARIZERS])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_masked_step_waits_for_nothing(strategy: str, binarizer: str | None):
    """Forward, penalty, backward and the strategy's own step, from the first step to the last."""
    model = tiny_model("bert", attn_implementation="eager").train()
    inputs = {name: value.to(AWAY) for name, value in tiny_inputs(model).items()}
    pruning = Pruning(model, strategy, total_steps=6, **BLOCKS[strategy], **_of(binarizer))
    model.to(AWAY)
    for _ in range(6):
        with Waits() as waits:
            (model(**inputs).loss + pruning.penalty()).backward()
            pruning.step()
        assert waits.found == []


class Read(Waits):
    """Reads zeros of the device instead of nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == torch.device("cpu"):
            self.found.append("read")
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_log_line_waits_once(strategy: str):
    """For all masks at once."""
    model = tiny_model("bert")
    pruning = Pruning(model, strategy, total_steps=6, **BLOCKS[strategy])
    model.to(AWAY)
    with Read() as read:
        pruning.masks()
    assert read.found == ["read"]


def _of(binarizer: str | None) -> dict[str, str]:
    return {} if binarizer is None else {"binarizer": binarizer}


def watched(trainer: PruningTrainer, watch: Any, *names: str) -> None:
    """What a trainer does in these methods."""

    def within(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with watch:
            return own(*args, **kwargs)

    for name in names:
        setattr(trainer, name, partial(within, getattr(trainer, name)))


def of_a_run(folder: Path, strategy: str, device: str) -> PruningTrainer:
    """As `prune run` trains: with a teacher that shows logits, hidden states and attention maps."""
    model, dense = (tiny_model("bert", attn_implementation="eager") for _ in range(2))
    task: Any = SimpleNamespace(
        collate=lambda rows: tiny_inputs(model),
        metrics=None,
        metric="accuracy",
        greater_is_better=True,
        imitation="distribution",
        forward=lambda model, batch, **options: model(**batch, **options),
        loss=lambda outputs, batch: outputs.loss,
        model_inputs=lambda batch: {name: value for name, value in batch.items() if name != "labels"},
        taught=lambda outputs, batch: {"logits": outputs.logits},
        counted=lambda batch: None,
    )
    pruned = make_strategy(strategy, BLOCKS[strategy])
    pruned.prepare(Context(model, structure_of(model), 4, 0, tuple))
    section = TrainingSection(max_steps=4, batch_size=4, gradient_accumulation=2, logging_steps=50)
    args = arguments(section, folder / "checkpoints", device, text=False)
    teacher = Teacher(dense, task, DistillationSection(attention_maps=0.1))
    rows = Dataset.from_dict({"row": list(range(16))})
    return PruningTrainer(model=model, args=args, train_dataset=rows, task=task, strategy=pruned, teacher=teacher)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_of_a_run_waits_for_nothing(strategy: str, tmp_path: Path):
    """But for once, before the weights change: whether its losses and the norm of its gradients are numbers."""
    trainer = of_a_run(tmp_path, strategy, "cpu")
    waits, asks = Waits(torch.device("cpu")), Waits(torch.device("cpu"))
    watched(trainer, waits, "_get_num_items_in_batch", "training_step")
    watched(trainer, asks, "_clip_grad_norm")
    train(trainer, tmp_path / "metrics.jsonl", "prune")
    assert trainer.state.global_step == 4
    assert waits.found == []
    assert asks.found == ["tolist"] * 4


@pytest.mark.parametrize("family", ["t5", "mpnet"])
def test_heads_that_are_left_find_their_position_biases(family: str):
    """Their layers get those of all heads of the dense model."""
    model = tiny_model(family)
    whole = compact(model, unit_masks(model, lambda unit: [1] if isinstance(unit, Attention) else None)).model
    batch = {name: value.to(AWAY) for name, value in tiny_inputs(whole).items()}
    whole.to(AWAY)
    waits = Waits()
    with waits:
        whole(**batch)
    assert waits.found == []


def test_batches_come_to_a_gpu_while_it_computes(tmp_path: Path):
    args = arguments(TrainingSection(), tmp_path / "checkpoints", "cuda", text=False)
    assert args.dataloader_pin_memory
    assert args.accelerator_config.non_blocking


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("binarizer", [None, *BINARIZERS])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_waits_for_nothing_on_a_gpu(strategy: str, binarizer: str | None):
    model = tiny_model("bert", attn_implementation="eager").cuda().train()
    inputs = {name: value.cuda() for name, value in tiny_inputs(model).items()}
    pruning = Pruning(model, strategy, total_steps=6, **BLOCKS[strategy], **_of(binarizer))
    optimizer = AdamW(pruning.parameter_groups(lr=1e-3))
    for _ in range(6):
        with _refusing_to_wait():
            (model(**inputs).loss + pruning.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            pruning.step()


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_profiler_sees_no_wait_in_a_step(strategy: str):
    model = tiny_model("bert", attn_implementation="eager").cuda().train()
    inputs = {name: value.cuda() for name, value in tiny_inputs(model).items()}
    pruning = Pruning(model, strategy, total_steps=6, **BLOCKS[strategy])
    optimizer = AdamW(pruning.parameter_groups(lr=1e-3))

    def step() -> None:
        (model(**inputs).loss + pruning.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruning.step()

    step()  # libraries of CUDA are loaded in it
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        torch.cuda.synchronize()  # one that is seen
        with record_function("steps"):
            for _ in range(3):
                step()
    events = [(event.name, event.time_range.start) for event in found.events()]
    marks = [event for event in found.events() if event.name == "steps" and event.device_type.name == "CPU"]
    steps = marks[0].time_range
    waits = [(name, start) for name, start in events if "Synchronize" in name or "DtoH" in name]
    assert [name for name, start in waits if start < steps.start]
    assert [name for name, start in waits if steps.start <= start <= steps.end] == []


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_of_a_run_waits_for_nothing_on_a_gpu(strategy: str, tmp_path: Path):
    """With the Trainer, its batches, and a teacher; it asks whether its losses are numbers behind `training_step`."""
    trainer: Any = of_a_run(tmp_path, strategy, "cuda")
    trainer.training_step = _refusing_to_wait()(trainer.training_step)
    train(trainer, tmp_path / "metrics.jsonl", "prune")
    assert trainer.state.global_step == 4
