"""prune bench: how much faster, smaller and cheaper models are than their baseline."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune_cli import grids, options

if TYPE_CHECKING:
    from prune_core.bench.grid import Grid, Setting
    from prune_core.bench.networks import NetworkRow
    from prune_core.measure import Bench, Failure, Machine, Row, Side


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Folders or hub names. Example: runs/first/model"),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Model to compare with. Example: --baseline ./my-bert")] = None,
    networks: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of networks by their sizes, built with random weights, instead of models. "
            "Example: --networks benchmarks/published_networks.json"
        ),
    ] = None,
    batch_sizes: grids.BatchSizes = None,
    lengths: grids.Lengths = None,
    lengths_of: grids.LengthsOf = None,
    new_tokens: grids.NewTokens = None,
    attention: grids.Attentions = None,
    dtypes: grids.DTypes = None,
    runtimes: grids.Runtimes = None,
    rounds: grids.Rounds = None,
    threads: grids.Threads = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Time each MODEL against a baseline, interleaved and warmed up, on the CPU or on CUDA, all in the same way.

    Flags that take a list measure every combination. A difference counts where the interval of the ratio leaves out 1.
    """
    if networks is not None and (models or baseline):
        raise typer.BadParameter("--networks brings its own models: leave MODEL and --baseline out")
    several = {"batch_sizes": batch_sizes, "lengths": lengths, "attention": attention, "dtypes": dtypes}
    single = {"lengths_of": lengths_of, "new_tokens": new_tokens, "rounds": rounds, "threads": threads}
    grid = grids.grid_of({**several, "runtimes": runtimes}, single)
    if networks is not None:
        _bench_networks(networks, grid, device or "auto", json)
    elif models and baseline:
        _bench_models(models, baseline, grid, device or "auto", json)
    else:
        raise typer.BadParameter("give a MODEL and its --baseline, or --networks FILE")


def _bench_models(models: list[str], baseline: str, grid: "Grid", device: str, json: bool) -> None:
    from prune_cli import render
    from prune_core.bench.folders import bench_folders

    render.log_to_stderr()
    found = bench_folders(models, baseline, grid, device)
    if json:
        render.print_json(found.to_dict())
    else:
        _tables(found)


def _bench_networks(file: Path, grid: "Grid", device: str, json: bool) -> None:
    from prune_cli import render
    from prune_core.bench.networks import bench_networks

    render.log_to_stderr()
    found = bench_networks(file, grid, device)
    if json:
        render.print_json(found.to_dict())
    else:
        _networks(found)


def _tables(found: "Bench[Row]") -> None:
    from prune_cli import render

    first, sides = found.rows[0], found.rows[0].sides
    for side, ratio in zip(sides[1:], first.speedups, strict=True):
        if len(found.rows) == 1:
            typer.secho(f"{side.name}: {ratio}", bold=True)
    columns = ["figure", *(render.short(side.name) for side in sides)]
    render.print_table("Models", columns, [(name, *values) for name, values in _sizes(first)])
    body = [line for row in found.rows for line in _lines(row)]
    columns = ["model", "batch", "tokens", "how", *_TIMES, "speed-up", "FLOPs", "GFLOPs", "MB of activations"]
    render.print_table("Times", columns, body)
    for line in (line for row in found.rows for line in _forms(row)):
        typer.echo(line)
    _failed(found.failed)
    _where(found.machine, found.grid.rounds)


_TIMES = ("ms p50", "ms p90", "ms p99", "a second")


def _sizes(row: "Row") -> Iterator[tuple[str, list[float | None]]]:
    yield "million parameters", [side.parameters / 1e6 for side in row.sides]
    yield "MB of weights", [side.weight_bytes / 1e6 for side in row.sides]
    yield "MB on disk", [side.file_bytes and side.file_bytes / 1e6 for side in row.sides]


def _lines(row: "Row") -> Iterator[tuple[object, ...]]:
    from prune_cli import render

    ratios = [("", ""), *((str(r), f"1/{f:.2f}") for r, f in zip(row.speedups, row.flop_ratios, strict=True))]
    for side, (speedup, flops) in zip(row.sides, ratios, strict=True):
        figures = (speedup, flops, side.flops / 1e9, side.activation_bytes and side.activation_bytes / 1e6)
        yield (render.short(side.name), *_setting(row.setting), *_times(side), *figures)


def _forms(row: "Row") -> Iterator[str]:
    """For each side that skips zeros how many of its linears do, and how."""
    from prune_cli import render
    from prune_core.measure import DENSE

    batch, tokens, _ = _setting(row.setting)
    for side in row.sides:
        if side.forms is not None:
            taken = Counter(one.form for one in side.forms if one.form != DENSE)
            how = ", ".join(f"{count} as {form}" for form, count in taken.items()) or "none"
            where = f"{render.short(side.name)}, batch {batch}, tokens {tokens}"
            yield f"{where}: linears that skip their zeros, of {len(side.forms)}: {how} (--json names them)"


def _setting(setting: "Setting") -> tuple[object, ...]:
    ways: list[str] = [setting.phase, setting.dtype, setting.attention or ""]
    ways += [setting.runtime] * (setting.runtime != "torch")
    return setting.batch_size, setting.length or "of the data", ", ".join(filter(None, ways))


def _times(side: "Side") -> tuple[float, ...]:
    timing = side.timing
    return timing.p50 * 1e3, timing.p90 * 1e3, timing.p99 * 1e3, timing.throughput


def _networks(found: "Bench[NetworkRow]") -> None:
    from prune_cli import render

    rows = [
        (row.name, *_setting(row.setting), row.timing.p50 * 1e3, rival.name, str(rival.speedup))
        + (
            f"{rival.flop_limit:.2f}x",
            f"{rival.speedup.value / rival.flop_limit:.0%}",
            row.published if rival is row.rivals[0] else None,
        )
        for row in found.rows
        for rival in row.rivals
    ]
    columns = [
        "network",
        "batch",
        "tokens",
        "how",
        "ms p50",
        "against",
        "speed-up",
        "FLOP limit",
        "reached",
        "published",
    ]
    render.print_table("Networks with random weights (published speed-ups are against bert-base)", columns, rows)
    _failed(found.failed)
    _where(found.machine, found.grid.rounds)


def _failed(failures: "Sequence[Failure]") -> None:
    from prune_cli import render

    if failures:
        rows = [(*_setting(one.setting), one.error) for one in failures]
        render.print_table("Not measured", ["batch", "tokens", "how", "why"], rows)


def _where(machine: "Machine", rounds: int) -> None:
    place = machine.cpu if machine.device == "cpu" else machine.device
    cores = f"threads: {machine.threads}, cores: {machine.usable_cores} of {machine.cores}"
    typer.echo(f"medians of {rounds} rounds; {place}, {cores}, torch {machine.torch}")
