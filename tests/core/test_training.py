"""The Trainer of a run: one GPU, and a training that goes astray stops at its step, naming the layer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from prune_core.arithmetic import arithmetic
from prune_core.errors import TrainingError
from prune_core.recipe import TrainingSection
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.training import PruningTrainer, arguments, make_trainer, train
from prune_core.training.faults import first_not_finite

SECTION = TrainingSection(max_steps=4, batch_size=4, save_steps=1, logging_steps=50)


class Penalised:
    """As much of a strategy as a training needs: a penalty on a model's weights."""

    def __init__(self, model: PreTrainedModel, penalty: Callable[[Tensor, int], Tensor]) -> None:
        self.model, self.cost, self.done = model, penalty, 0

    def step(self, progress: Any) -> None:
        self.done = progress.step

    def penalty(self) -> Tensor:
        return self.cost(self.model.classifier.weight, self.done)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "lr": lr, "weight_decay": weight_decay}]


def trainer(folder: Path, device: str = "cpu", **parts: Any) -> PruningTrainer:
    model = parts.pop("model", None) or tiny_model("vit")
    task: Any = SimpleNamespace(
        counted=lambda batch: None,
        collate=lambda rows: tiny_inputs(model),
        metrics=None,
        metric="accuracy",
        greater_is_better=True,
        forward=lambda model, batch, **options: model(**batch, **options),
        loss=lambda outputs, batch: outputs.loss,
    )
    rows = Dataset.from_dict({"row": list(range(16))})
    return make_trainer(model, task, arguments(SECTION, folder / "checkpoints", device, text=False), rows, **parts)


def failed(made: PruningTrainer, folder: Path) -> str:
    with pytest.raises(TrainingError) as caught:
        train(made, folder / "metrics.jsonl", "prune")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))


def test_a_plain_process_trains_on_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replicas of DataParallel would share the scores of the first GPU's layers, and the batches would be larger."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made = trainer(tmp_path, "cuda")
    assert made.args.n_gpu == 1
    assert made.args.train_batch_size == SECTION.batch_size
    assert not isinstance(made._wrap_model(made.model), nn.DataParallel)


def test_the_layer_that_went_astray_is_named(tmp_path: Path):
    model = tiny_model("vit")

    class Spoiling(Penalised):
        def step(self, progress: Any) -> None:
            if progress.step == 2:
                with torch.no_grad():
                    model.vit.layers[1].attention.k_proj.weight[0, 0] = torch.inf

    strategy = Spoiling(model, lambda weight, step: weight.sum() * 0)
    message = failed(trainer(tmp_path, model=model, strategy=strategy), tmp_path)
    assert message.startswith("the loss is nan at step 3: lower training.learning_rate (now ")
    assert "the first layer that puts out nan or infinity is vit.layers.1.attention.k_proj;" in message
    assert not any(module._forward_hooks for module in model.modules())


def test_a_search_that_fails_leaves_nothing_behind():
    model = tiny_model("vit")
    with pytest.raises(ZeroDivisionError):
        first_not_finite(model, lambda: 1 / 0)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_loss_astray_in_a_sound_model_is_no_layers_fault(tmp_path: Path):
    model = tiny_model("vit")
    strategy = Penalised(model, lambda weight, step: weight.sum() * (torch.inf if step == 2 else 0))
    message = failed(trainer(tmp_path, model=model, strategy=strategy), tmp_path)
    assert " at step 3: " in message
    assert "every layer's output is finite, so it comes of the labels or the strategy's penalty" in message


def test_gradients_astray_stop_before_they_reach_the_weights(tmp_path: Path):
    """The root of nothing: a finite loss whose gradient is none."""
    model = tiny_model("vit")
    strategy = Penalised(model, lambda weight, step: (weight * 0).sum().sqrt() if step == 2 else weight.sum() * 0)
    message = failed(trainer(tmp_path, model=model, strategy=strategy), tmp_path)
    assert message.startswith("the norm of the gradients is nan at step 3: lower training.learning_rate (now ")
    assert saved(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_compiling_leaves_the_arithmetic_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers and accelerate turn TF32 on for all that the process computes: figures in float32 would be none."""
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    original = Trainer.create_accelerator_and_postprocess

    def as_on_a_gpu(self: Trainer) -> None:
        original(self)
        torch.backends.cuda.matmul.allow_tf32 = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", as_on_a_gpu)
    before = torch.backends.fp32_precision, torch.get_float32_matmul_precision()
    args = arguments(TrainingSection(compile=True), tmp_path / "checkpoints", "cpu", text=False)
    task: Any = SimpleNamespace(metrics=None, collate=None)
    PruningTrainer(model=tiny_model("vit"), args=args, task=task)
    assert (torch.backends.fp32_precision, torch.get_float32_matmul_precision()) == before == ("none", "highest")


def test_arithmetic_is_set_back_whichever_way_it_was_set():
    """torch refuses to read the older setting where the newer has said something else."""
    torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "tf32"  # the one as transformers does
    try:
        with arithmetic("float32"):
            assert "tf32" not in (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
        with arithmetic("tf32"):
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cudnn.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
    assert torch.get_float32_matmul_precision() == "highest"
    with arithmetic("tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.get_float32_matmul_precision() == "highest"
