"""Flags that several verbs share. Every help ends with an example; a test looks."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DeviceName = Literal["auto", "cpu", "cuda"]

DATA = "Model and data"
PRUNING = "Pruning"
TRAINING = "Training"

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table. Example: --json")]
Device = Annotated[
    DeviceName | None, typer.Option(help="Where to compute; auto takes CUDA where there is one. Example: --device cpu")
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform",
        help="One size for all layers, to load with nothing installed; short for --compactor uniform. "
        "Example: --uniform",
        rich_help_panel=PRUNING,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(help="Task, one of `prune tasks`. Example: --task text-classification", rich_help_panel=DATA),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="Hub data set, instead of files; its configuration by --set task.dataset_config=sst2. "
        "Example: --dataset nyu-mll/glue",
        rich_help_panel=DATA,
    ),
]
TrainFile = Annotated[
    Path | None,
    typer.Option(
        help="csv, json, jsonl or parquet file to train on, or a folder of images with one for each label. Example: "
        "--train-file train.csv",
        rich_help_panel=DATA,
    ),
]
ValidationFile = Annotated[
    Path | None,
    typer.Option(
        help="csv, json, jsonl or parquet file to evaluate on. Example: --validation-file dev.csv", rich_help_panel=DATA
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROLE=NAME",
        help="Column of a role of the task, such as text or label; repeatable. Example: --column text=sentence",
        rich_help_panel=DATA,
    ),
]
Described = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="Recipe whose architecture section names the modules of a model that no family covers. "
        "Example: --recipe recipe.yaml",
    ),
]
DropLayers = Annotated[
    str | None,
    typer.Option(
        metavar="LAYERS",
        help="Layers to remove before all else; --set depth.drop for a list. Example: --drop-layers layer.1,layer.4",
        rich_help_panel=PRUNING,
    ),
]
KeepLayers = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="How many layers stay, spread evenly; by name of several stacks, as in encoder=6,decoder=3. "
        "Example: --keep-layers 6",
        rich_help_panel=PRUNING,
    ),
]
Align = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|auto",
        help="Keep a few more neurons, up to a multiple of a number; auto where that is measured to be faster on the "
        "device. Example: --align auto",
        rich_help_panel=PRUNING,
    ),
]
Portable = Annotated[
    bool | None,
    typer.Option(
        "--portable",
        help="The model gets its own modelling file, to load without prune_core by trust_remote_code. "
        "Example: --portable",
    ),
]
EmbeddingBits = Annotated[
    int | None,
    typer.Option(
        metavar="BITS",
        help="Store the word embeddings in 8 or 4 bits; what that changes is measured. Example: --embedding-bits 8",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Any field of the recipe, the value as YAML; repeatable, and stronger than flags. "
        "Example: --set training.save_steps=100",
    ),
]


def depth_of(drop: str | None, keep: str | None) -> dict[str, Any]:
    """The fields of the recipe's depth section that both flags say; typer.BadParameter for a malformed one."""
    names = [] if drop is None else [name.strip() for name in drop.split(",")]
    if drop is not None and not all(names):
        raise typer.BadParameter(
            f"--drop-layers {drop!r}: names with commas between them were expected: layer.1,layer.4"
        )
    found: dict[str, Any] = {"drop": names} if names else {}
    if keep is None:
        return found
    stacks = dict(re.findall(r"([\w.]+)=(\d+)(?:,|$)", keep))
    if keep.isdecimal():
        return found | {"keep": int(keep)}
    if not stacks or ",".join(f"{name}={count}" for name, count in stacks.items()) != keep:
        raise typer.BadParameter(
            f"--keep-layers {keep!r}: a number of layers was expected, or such as encoder=6,decoder=3"
        )
    return found | {"keep": {name: int(count) for name, count in stacks.items()}}


def compactor_of(compactor: str | None, uniform: bool) -> str | None:
    """The compactor that both flags together name; typer.BadParameter where they name two."""
    if uniform and compactor not in (None, "auto", "uniform"):
        raise typer.BadParameter(f"--uniform is short for --compactor uniform, found beside --compactor {compactor}")
    return "uniform" if uniform else compactor
