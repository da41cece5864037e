"""prune evaluate: the metric of a task, for any model."""

from typing import Annotated

import typer

from prune_cli import options


def evaluate(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or hub name, dense or compact. Example: runs/first/model")
    ],
    task: Annotated[
        str,
        typer.Option(
            help="Task, one of `prune tasks`. Example: --task text-classification", rich_help_panel=options.DATA
        ),
    ],
    dataset: options.Dataset = None,
    validation_file: options.ValidationFile = None,
    column: options.Column = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Examples a batch, by default as the task has it, or 64. Example: --batch-size 16"),
    ] = None,
    device: options.Device = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Evaluate MODEL on the validation data of a task."""
    from prune_cli import overlay, render
    from prune_core.plugins import load_plugins
    from prune_core.runs.configuring import task_config, with_defaults

    flags = [] if batch_size is None else [f"training.eval_batch_size={batch_size}"]
    asked = {**ctx.params, "batch_size": None, "settings": [*flags, *(settings or ())]}
    recipe = with_defaults(*overlay.laid_over(None, asked))
    task_config(recipe.task, load_plugins(recipe.plugins.disabled))

    from prune_core.runs.run import evaluate_folder

    figures = evaluate_folder(recipe.model_copy(update={"model": model}))
    if json:
        render.print_json(figures)
    else:
        render.print_table(f"{model} on {task}", ["metric", "value"], figures.items())
