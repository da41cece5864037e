"""The best evaluation at the final density is what is kept; patience ends a training, also one that was resumed."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from prune_core.errors import RecipeError, TrainingError
from prune_core.recipe import Recipe, TrainingSection
from prune_core.strategy import Progress
from prune_core.testing.tiny import tiny_inputs, tiny_model
from prune_core.training import PruningTrainer, arguments, make_trainer, train
from tests.core.loops import STRATEGIES, Training


class Settling:
    """As much of a strategy as a training needs; its density is final from the sixth step on."""

    def __init__(self, model: Any) -> None:
        self.model, self.at = model, -1

    def step(self, progress: Progress) -> None:
        self.at = progress.step

    def penalty(self) -> torch.Tensor:
        return self.model.classifier.weight.sum() * 0

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def masks(self) -> Any:
        return SimpleNamespace(density=lambda: 0.5)

    def settled(self, progress: Progress) -> bool:
        return progress.step >= 6


def trained(folder: Path, scores: dict[int, float], *, greater: bool = True, **section: Any) -> PruningTrainer:
    """A training that is evaluated at every second step of twelve, with these scores by step."""
    model = tiny_model("vit")
    strategy: Any = Settling(model)
    task: Any = SimpleNamespace(
        counted=lambda batch: None,
        collate=lambda rows: tiny_inputs(model),
        metrics=lambda prediction: {"score": scores[strategy.at]},
        metric="score",
        greater_is_better=greater,
        forward=lambda model, batch, **options: model(**batch, **options),
        loss=lambda outputs, batch: outputs.loss,
        predict=lambda model, batch: (model(**batch).logits, batch["labels"]),
    )
    rows = Dataset.from_dict({"row": list(range(16))})
    whole = TrainingSection(max_steps=12, batch_size=4, eval_batch_size=4, save_steps=5, eval_steps=2, **section)
    args = arguments(whole, folder / "checkpoints", "cpu", text=False)
    parts = {"strategy": strategy, "patience": whole.patience, "eval_dataset": rows}
    made = make_trainer(model, task, args, rows, **parts)
    train(made, folder / "metrics.jsonl", "prune")
    return made


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("checkpoint-*")}


def is_model_of(made: PruningTrainer, folder: Path, step: int) -> bool:
    state = load_file(folder / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")
    model: Any = made.model
    return all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())


SCORES = {2: 0.9, 4: 0.95, 6: 0.5, 8: 0.7, 10: 0.6, 12: 0.65}
"""Best before the density is final; of the others at step 8."""


def test_the_best_at_the_final_density_is_kept(tmp_path: Path):
    made = trained(tmp_path, SCORES)
    assert is_model_of(made, tmp_path, 8)
    assert not is_model_of(made, tmp_path, 12)
    assert made.strategy is not None
    assert made.strategy.at == 8  # type: ignore[attr-defined]
    assert saved(tmp_path) == {"checkpoint-8", "checkpoint-10", "checkpoint-12"}, "rotation spares the best"


@pytest.mark.parametrize("gone", [True, False])
def test_a_best_one_that_was_damaged_is_named(gone: bool, tmp_path: Path):
    trained(tmp_path, SCORES)
    best = tmp_path / "checkpoints" / "checkpoint-8"
    if gone:
        shutil.rmtree(best)
    else:
        (best / "model.safetensors").write_bytes(b"half")
    fault = "it is gone" if gone else r"model\.safetensors"
    with pytest.raises(
        TrainingError, match=rf"checkpoint-8, the best one, is damaged \({fault}\): remove .*checkpoints"
    ):
        trained(tmp_path, SCORES)


def test_less_may_be_better(tmp_path: Path):
    assert is_model_of(trained(tmp_path, SCORES, greater=False), tmp_path, 6)


def test_nan_is_never_the_best(tmp_path: Path):
    assert is_model_of(trained(tmp_path, SCORES | {6: float("nan"), 8: float("nan")}), tmp_path, 12)


def test_patience_counts_from_the_best_at_the_final_density(tmp_path: Path):
    scores = SCORES | {12: 0.99}
    made = trained(tmp_path, scores, patience=1)
    assert made.state.global_step == 10
    assert is_model_of(made, tmp_path, 8)
    again = trained(tmp_path, scores, patience=1)
    assert again.state.global_step == 0, "an ended training was gone on with"
    assert is_model_of(again, tmp_path, 8)


def test_patience_needs_evaluations():
    with pytest.raises(RecipeError, match="patience counts evaluations: give eval_steps as well"):
        Recipe.parse({"training": {"patience": 2}})


@pytest.mark.parametrize("binarizer", ["topk", "hard_concrete"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_density_stays_once_it_has_settled(strategy: str, binarizer: str):
    total = 10
    training = Training(tiny_model("bert"), strategy, total, binarizer=binarizer, density=0.4, cooldown=0.4)
    settled, densities = [], []
    for step in range(1, total + 1):
        training.run(1)
        settled.append(training.pruning.strategy.settled(Progress(step, total)))
        densities.append(training.pruning.masks().density())
    assert settled == [step >= 6 for step in range(1, total + 1)], "the cool-down is the last 0.4 of the steps"
    assert len(set(densities[5:])) == 1


def test_a_strategy_of_somebody_else_settles_at_its_end():
    from prune_core.strategy import Strategy

    assert not Strategy.settled(object(), Progress(9, 10))  # type: ignore[arg-type]
    assert Strategy.settled(object(), Progress(10, 10))  # type: ignore[arg-type]
