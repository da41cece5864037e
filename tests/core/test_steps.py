"""How a training's steps are counted, accumulated and computed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForTokenClassification, PreTrainedModel

from prune_core.distillation.teacher import Teacher, showing_attention
from prune_core.errors import RecipeError
from prune_core.folders.loading import structure_of
from prune_core.pruning import make_strategy
from prune_core.recipe import DistillationSection, TrainingSection
from prune_core.strategy import Context, Strategy
from prune_core.testing.tiny import tiny_model
from prune_core.training import PruningTrainer, arguments, check_training, make_trainer, steps_of, train

IGNORED = -100


def rows(count: int = 12) -> Dataset:
    """Texts of 3 to 9 tokens; a text of n tokens has n - 2 labels that count."""
    generator = torch.Generator().manual_seed(0)
    lengths = [3 + row % 7 for row in range(count)]
    ids = [torch.randint(1, 60, (length,), generator=generator).tolist() for length in lengths]
    tokens = [[IGNORED, *[one % 3 for one in text[1:-1]], IGNORED] for text in ids]
    return Dataset.from_dict({"input_ids": ids, "tokens": tokens, "label": [text[0] % 3 for text in ids]})


def padded(values: list[list[int]], filler: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=filler)


def task(of_tokens: bool) -> Any:
    def collate(found: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = padded([row["input_ids"] for row in found], 0)
        labels = (
            padded([row["tokens"] for row in found], IGNORED)
            if of_tokens
            else torch.tensor([row["label"] for row in found])
        )
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    return SimpleNamespace(
        collate=collate,
        metrics=None,
        metric="accuracy",
        greater_is_better=True,
        forward=lambda model, batch, **options: model(**batch, **options),
        loss=lambda outputs, batch: outputs.loss,
        counted=lambda batch: batch["labels"] != IGNORED if of_tokens else None,
        imitation="distribution",
        model_inputs=lambda batch: {name: value for name, value in batch.items() if name != "labels"},
        taught=lambda outputs, batch: {"logits": outputs.logits},
    )


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def model_for(of_tokens: bool) -> PreTrainedModel:
    model = tiny_model("bert")
    if of_tokens:
        torch.manual_seed(0)
        model = BertForTokenClassification(model.config)
    return without_dropout(model)


def prepared(model: PreTrainedModel, name: str, total: int) -> Strategy:
    strategy = make_strategy(name, {"density": 0.5})
    strategy.prepare(Context(model, structure_of(model), total))
    return strategy


def trained(folder: Path, model: PreTrainedModel, of_tokens: bool = False, **section: Any) -> PruningTrainer:
    """A training of `section` on twelve rows, as it is at its end."""
    strategy, teacher = section.pop("strategy", None), section.pop("teacher", None)
    whole = TrainingSection(**{"logging_steps": 1, "max_grad_norm": 1e6, "save_steps": 100, **section})
    args = arguments(whole, folder / "checkpoints", "cpu", text=False)
    made = make_trainer(model, task(of_tokens), args, rows(), strategy=strategy, teacher=teacher)
    with showing_attention(model, teacher):
        train(made, folder / "metrics.jsonl", "prune")
    return made


def logged(folder: Path, figure: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[figure] for line in lines if figure in line]


@pytest.mark.parametrize("of_tokens", [False, True])
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 3), (5, 3)], ids=["even", "the last one is short"])
def test_accumulated_batches_are_one_large_batch(of_tokens: bool, batch: int, accumulation: int, tmp_path: Path):
    """Loss and gradient, whether it is a mean over examples or over tokens, of which batches have other numbers."""
    trained(tmp_path / "one", model_for(of_tokens), of_tokens, max_steps=2, batch_size=12)
    parts = {"batch_size": batch, "gradient_accumulation": accumulation}
    trained(tmp_path / "many", model_for(of_tokens), of_tokens, max_steps=2, **parts)
    for figure in ("loss", "grad_norm"):
        assert logged(tmp_path / "many", figure) == pytest.approx(logged(tmp_path / "one", figure), rel=2e-4)


@pytest.mark.parametrize("of_tokens", [False, True])
def test_with_a_teacher_too(of_tokens: bool, tmp_path: Path):
    """Layers are imitated token by token: batches have other numbers of those than of examples, or of labels."""
    distillation = DistillationSection(hidden_states=5.0, attention_maps=5.0)
    for name, parts in (("one", {"batch_size": 12}), ("many", {"batch_size": 5, "gradient_accumulation": 3})):
        model = model_for(of_tokens)
        other = type(model)(model.config)
        other.load_state_dict({key: 1.5 * value for key, value in model.state_dict().items()})
        teacher = Teacher(other, task(of_tokens), distillation)
        trained(tmp_path / name, model, of_tokens, teacher=teacher, max_steps=2, **parts)
    for figure in ("loss", "grad_norm"):
        assert logged(tmp_path / "many", figure) == pytest.approx(logged(tmp_path / "one", figure), rel=2e-4)


def test_the_loss_is_the_mean_over_all_tokens_that_count(tmp_path: Path):
    model = model_for(True)
    batch = task(True).collate(list(rows()))
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    expected = cross_entropy(logits[batch["labels"] != IGNORED], batch["labels"][batch["labels"] != IGNORED])
    trained(tmp_path, model, True, max_steps=1, batch_size=2, gradient_accumulation=6)
    assert logged(tmp_path, "loss") == pytest.approx([float(expected)], rel=1e-5)


def test_a_penalty_counts_once_a_step(tmp_path: Path):
    losses = []
    for number, parts in enumerate(({"batch_size": 12}, {"batch_size": 4, "gradient_accumulation": 3})):
        model = model_for(False)
        strategy = prepared(model, "hybrid", 2)
        strategy.penalty = lambda model=model: 3 + model.classifier.bias.sum()  # type: ignore[method-assign]
        trained(tmp_path / str(number), model, max_steps=2, strategy=strategy, **parts)
        losses.append((logged(tmp_path / str(number), "loss"), logged(tmp_path / str(number), "grad_norm")))
    assert losses[0][0][0] > 3
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-4)
    assert losses[1][1] == pytest.approx(losses[0][1], rel=1e-3)


@pytest.mark.parametrize(("epochs", "batch", "accumulation"), [(2, 2, 4), (1.5, 5, 2), (3, 12, 1), (0.1, 4, 8)])
def test_steps_are_those_of_the_trainer(epochs: float, batch: int, accumulation: int, tmp_path: Path):
    section = {"epochs": epochs, "batch_size": batch, "gradient_accumulation": accumulation}
    done = trained(tmp_path, model_for(False), **section).state
    assert done.global_step == done.max_steps == steps_of(TrainingSection(**section), 12)


def test_activations_computed_again_change_nothing(tmp_path: Path):
    """Dropout draws the same numbers again, and masks are those of the step."""
    for name, again in (("kept", False), ("again", True)):
        model = tiny_model("bert", hidden_dropout_prob=0.1)
        strategy = prepared(model, "structured", 4)
        trained(tmp_path / name, model, strategy=strategy, max_steps=4, batch_size=4, gradient_checkpointing=again)
    assert logged(tmp_path / "again", "loss") == pytest.approx(logged(tmp_path / "kept", "loss"), rel=1e-5)


def test_bf16_is_float32_but_for_rounding_and_leaves_the_model_as_it_was(tmp_path: Path):
    plain, short = model_for(False), model_for(False)
    trained(tmp_path / "float32", plain, max_steps=3, batch_size=4)
    trained(tmp_path / "bf16", short, max_steps=3, batch_size=4, precision="bf16")
    exact, rounded = (logged(tmp_path / name, "loss") for name in ("float32", "bf16"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert rounded != exact
    assert {parameter.dtype for parameter in short.parameters()} == {torch.float32}
    batch = task(False).collate(list(rows()))
    with torch.no_grad():
        short.load_state_dict(plain.state_dict())
        assert torch.equal(short.eval()(**batch).logits, plain.eval()(**batch).logits), "it still rounds to bf16"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["hybrid", "structured"])
def test_a_compiled_step_is_the_same(strategy: str, tmp_path: Path):
    for name, compiled in (("plain", False), ("compiled", True)):
        model = model_for(False)
        made = prepared(model, strategy, 5)
        trained(tmp_path / name, model, strategy=made, max_steps=5, batch_size=12, compile=compiled)  # of one shape
    assert logged(tmp_path / "compiled", "loss") == pytest.approx(logged(tmp_path / "plain", "loss"), rel=1e-3)
    assert logged(tmp_path / "compiled", "mask_density") == logged(tmp_path / "plain", "mask_density")


def test_what_this_machine_or_model_cannot_do_is_refused():
    model = tiny_model("vit")
    with pytest.raises(RecipeError, match=r"training\.precision: fp16 needs a GPU"):
        check_training(TrainingSection(precision="fp16"), "cpu", model)
    with pytest.raises(RecipeError, match=r"training\.report_to: wandb is not installed; pip install wandb"):
        check_training(TrainingSection(report_to=("wandb",)), "cpu", model)
    model.supports_gradient_checkpointing = False
    with pytest.raises(RecipeError, match=r"training\.gradient_checkpointing: ViT\w+ does not support it"):
        check_training(TrainingSection(gradient_checkpointing=True), "cpu", model)


def test_tensorboard_is_told(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = model_for(False)
    trained(
        tmp_path, model, strategy=prepared(model, "hybrid", 3), max_steps=3, batch_size=4, report_to=("tensorboard",)
    )
    seen = EventAccumulator(str(tmp_path / "tensorboard" / "prune")).Reload()
    for figure in ("loss", "mask_density"):
        assert [event.step for event in seen.Scalars(f"train/{figure}")] == [1, 2, 3]
        told = [event.value for event in seen.Scalars(f"train/{figure}")]
        assert told == pytest.approx(logged(tmp_path, figure), rel=1e-6)
