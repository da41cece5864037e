"""prune run: fine-prune, compact, verify, evaluate and measure."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune_cli import options
from prune_cli.options import DATA, PRUNING, TRAINING

if TYPE_CHECKING:
    from prune_core.recipe import Recipe

RECIPE = "recipe.yaml"

RecipeFile = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE.yaml", help="Recipe, or the folder of a run to repeat. Example: recipes/sst2.yaml"),
]
Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub name of the model to prune. Example: --model ./my-bert", rich_help_panel=DATA),
]
Strategy = Annotated[
    str | None,
    typer.Option(help="One of `prune strategies`. Example: --strategy hybrid", rich_help_panel=PRUNING),
]
Density = Annotated[
    float | None,
    typer.Option(
        help="Share of the prunable weights that shall remain, above 0 up to 1. Example: --density 0.3",
        rich_help_panel=PRUNING,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Model to imitate: self (the dense model), none, auto, or a folder or hub name. Example: --teacher self",
        rich_help_panel=PRUNING,
    ),
]
Compactor = Annotated[
    str | None,
    typer.Option(
        help="What removes the pruned parts; auto takes the one that accepts the masks. Example: --compactor dense",
        rich_help_panel=PRUNING,
    ),
]
Epochs = Annotated[
    float | None, typer.Option(help="Passes over the training data. Example: --epochs 3", rich_help_panel=TRAINING)
]
MaxSteps = Annotated[
    int | None,
    typer.Option(help="Optimizer steps, instead of epochs. Example: --max-steps 500", rich_help_panel=TRAINING),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Examples a step and device. Example: --batch-size 32", rich_help_panel=TRAINING)
]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Peak rate of the weights. Example: --learning-rate 5e-5", rich_help_panel=TRAINING),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of everything random. Example: --seed 1", rich_help_panel=TRAINING)
]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder of the run; runs/DATE-STRATEGY by default. Example: --output runs/first"),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint. Example: prune run runs/first --resume")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace the run that the folder holds. Example: --output runs/first --overwrite"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the resolved recipe and the plan. Example: --dry-run")
]


def run(
    ctx: typer.Context,
    recipe: RecipeFile = None,
    strategy: Strategy = None,
    density: Density = None,
    teacher: Teacher = None,
    compactor: Compactor = None,
    uniform: options.Uniform = False,
    drop_layers: options.DropLayers = None,
    keep_layers: options.KeepLayers = None,
    align: options.Align = None,
    portable: options.Portable = None,
    embedding_bits: options.EmbeddingBits = None,
    model: Model = None,
    task: options.Task = None,
    dataset: options.Dataset = None,
    train_file: options.TrainFile = None,
    validation_file: options.ValidationFile = None,
    column: options.Column = None,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    seed: Seed = None,
    device: options.Device = None,
    output: Output = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Fine-prune a model, compact it, verify it, evaluate it and measure it.

    A recipe, flags or both: a flag is stronger than the recipe, and --set is stronger than a flag.

    With neither model nor task it prunes a small vision transformer, trained on scikit-learn's digits.

    On several GPUs or machines: torchrun --nproc_per_node 2 -m prune_cli run RECIPE.yaml (docs/distributed.md).
    """
    from prune_cli.overlay import laid_over
    from prune_core.runs.configuring import validated

    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a run, --overwrite starts it anew: choose one")
    file, folder = _start(recipe, output, resume)
    if folder is not None and (resume or overwrite):
        output = output or folder
    depth = options.depth_of(drop_layers, keep_layers)
    read = {"drop_layers": depth.get("drop"), "keep_layers": depth.get("keep"), "output": output}
    said = {**ctx.params, **read, "compactor": options.compactor_of(compactor, uniform)}
    tree, source = laid_over(file, said, of_a_run=folder is not None)
    resolved = validated(tree, source)
    if resume and resolved.output is None:
        raise typer.BadParameter("--resume needs the run, as in prune run runs/first --resume")
    if dry_run:
        _plan(resolved, resume, overwrite, json)
    else:
        _run(resolved, resume, overwrite, json)


def _start(recipe: Path | None, output: Path | None, resume: bool) -> tuple[Path | None, Path | None]:
    """The recipe to start from, and the folder of the run that it is the recipe of, if any.

    RECIPE may be the folder of a run, and so may --output.
    """
    if recipe is not None:
        from prune_core.runs.workspace import run_of

        return (recipe / RECIPE, recipe) if recipe.is_dir() else (recipe, run_of(recipe))
    if resume and output and (output / RECIPE).is_file():
        return output / RECIPE, output
    return None, None


def _plan(recipe: "Recipe", resume: bool, overwrite: bool, json: bool) -> None:
    from prune_cli import render
    from prune_core.distributed.processes import is_main
    from prune_core.runs.configuring import resolved
    from prune_core.runs.run import check

    plan = check(recipe, resume=resume, overwrite=overwrite)
    recipe = resolved(recipe)
    if not is_main():
        return
    if json:
        render.print_json({"recipe": recipe.model_dump(mode="json"), "plan": plan})
        return
    typer.echo(recipe.dump() + "\n# What prune run would do with this recipe:")
    for name, value in render.pairs(plan):
        typer.echo(f"#   {name}: {render.text(value)}")


def _run(recipe: "Recipe", resume: bool, overwrite: bool, json: bool) -> None:
    from prune_cli import render
    from prune_cli.exit_codes import StoppedError
    from prune_core.distributed.processes import is_main
    from prune_core.runs.workspace import default_output

    render.log_to_stderr()
    folder = recipe.output or default_output(recipe)
    try:
        from prune_core.runs.run import run as run_recipe

        manifest = run_recipe(recipe.model_copy(update={"output": folder}), resume=resume, overwrite=overwrite)
    except KeyboardInterrupt as interrupt:
        begun = (folder / RECIPE).is_file()
        on = f"go on with it: prune run {folder} --resume" if begun else "nothing was written yet"
        raise StoppedError(on) from interrupt
    if not is_main():
        return
    if json:
        render.print_json(manifest)
    else:
        _summary(manifest)


def _summary(manifest: dict[str, Any]) -> None:
    from prune_cli import render

    rows = manifest["summary"]
    render.print_table(manifest["output"], list(rows[0]), [tuple(row.values()) for row in rows])
    for note in manifest.get("notes", ()):
        typer.echo(note)
    models = "models lie in" if "members" in manifest else "model is"
    folder = manifest["output"] if "members" in manifest else f"{manifest['output']}/model"
    first = "import prune_core, then " if manifest.get("needs_prune_core", True) else ""
    how = "with trust_remote_code=True" if manifest.get("portable") else "as usual"
    typer.echo(f"The compact {models} {folder}: {first}from_pretrained {how}.")
