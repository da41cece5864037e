"""Flags that say what is measured, shared by `prune bench` and `prune explain`; those of several values take a list."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prune_core.bench.grid import Grid

_PANEL = "What is measured"

BatchSizes = Annotated[
    str | None, typer.Option(help="Examples a batch, 8 by default. Example: --batch-sizes 1,8", rich_help_panel=_PANEL)
]
Lengths = Annotated[
    str | None,
    typer.Option(
        help="Tokens an example (text models), 128 by default. Example: --lengths 32,384", rich_help_panel=_PANEL
    ),
]
LengthsOf = Annotated[
    str | None,
    typer.Option(
        metavar="TASK|FILE",
        help="Texts as long as those of a task or a file, instead. Example: --lengths-of sst2",
        rich_help_panel=_PANEL,
    ),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        help="Prefill, and decoding of so many tokens, instead of a forward pass. Example: --new-tokens 32",
        rich_help_panel=_PANEL,
    ),
]
Attentions = Annotated[
    str | None,
    typer.Option(
        help="eager, sdpa, flash_attention_2; by default each model's own. Example: --attention eager,sdpa",
        rich_help_panel=_PANEL,
    ),
]
DTypes = Annotated[
    str | None,
    typer.Option(help="float32, tf32, bfloat16, float16. Example: --dtypes float32,bfloat16", rich_help_panel=_PANEL),
]
Runtimes = Annotated[
    str | None,
    typer.Option(
        help="torch (plain), compile, cuda-graphs, sparse, torch-export, onnx, openvino. "
        "Example: --runtimes torch,compile,openvino",
        rich_help_panel=_PANEL,
    ),
]
Rounds = Annotated[int | None, typer.Option(help="Interleaved rounds that count, 20 by default. Example: --rounds 50")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the CPU; by default torch's choice. Example: --threads 2")
]


def grid_of(several: Mapping[str, str | None], single: Mapping[str, Any]) -> "Grid":
    """The grid that flags name: `several` are lists with commas, None was not given. RecipeError for a wrong value."""
    from prune_core.bench.grid import Grid

    lists = {name: text.split(",") for name, text in several.items() if text is not None}
    return Grid.parse({**lists, **{name: value for name, value in single.items() if value is not None}})
