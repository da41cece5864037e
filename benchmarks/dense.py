"""Fine-tune a dense model on a task: what the rows of a results table start from.

    python benchmarks/dense.py RECIPE OUTPUT [--set PATH=VALUE ...]

RECIPE is that of the pruning run, or the name of a task with --set model=MODEL: its model, task and training are used,
nothing is pruned. PRUNE_DATA stands in for the hub.
"""

import argparse
from pathlib import Path

from transformers import set_seed

from prune_cli.overlay import laid_over
from prune_core.files import replacing
from prune_core.runs.configuring import validated
from prune_core.runs.preparation import make_job
from prune_core.training import arguments, is_text, make_trainer, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="recipe file, or the name of a task")
    parser.add_argument("output", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="PATH=VALUE")
    given = parser.parse_args()
    if (given.output / "config.json").is_file():
        return
    file = Path(given.recipe) if given.recipe.endswith(".yaml") else None
    task = {} if file else {"task": given.recipe}
    recipe = validated(*laid_over(file, {**task, "settings": given.settings}))
    job, section = make_job(recipe), recipe.training
    set_seed(section.seed)
    model, features = job.task.load_model(job.model_path), job.task.train()
    work = given.output.with_name(f"{given.output.name}-training")
    args = arguments(section, work / "checkpoints", job.device, is_text(features))
    trainer = make_trainer(model, job.task, args, features)
    train(trainer, work / "metrics.jsonl", "dense")
    with replacing(given.output) as draft:
        model.save_pretrained(draft)
        job.task.processor.save_pretrained(draft)
    print(given.output, {k: v for k, v in trainer.predict(job.task.validation()).metrics.items() if "per_" not in k})


if __name__ == "__main__":
    main()
