"""prune trim: keep of a vocabulary what a corpus uses."""

from pathlib import Path
from typing import Annotated

import typer

from prune_cli import options


def trim(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or hub name, dense or compact. Example: runs/first/model")
    ],
    corpus: Annotated[
        Path,
        typer.Option(
            help="Texts that count: txt, a text a line, or csv, json, jsonl, parquet. Example: --corpus texts.txt"
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the smaller model. Example: --output ./my-bert-trimmed")],
    json: options.Json = False,
) -> None:
    """Keep of the vocabulary of MODEL the tokens that a corpus uses, in tokenizer and embeddings.

    The outputs on that corpus stay the same. Single characters and special tokens stay: every text can still be read.
    """
    from prune_cli import render
    from prune_core.embeddings.trimming import trim_folder

    report = trim_folder(model, corpus, output)
    if json:
        render.print_json(report)
    else:
        render.print_table(f"{model} trimmed to {output}", ["figure", "value"], render.pairs(report))
