"""``interp sweep``: discoveries over tasks, models, methods and seeds."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import (
    CpusOption,
    DeviceOption,
    DtypeOption,
    GpusOption,
    ShardOption,
    WorkersOption,
    where_to_run,
)
from interp.cli.terminal import goes_on, plain_console


def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSON with tasks, and models, methods, seeds, options if wanted"),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="folder of the runs, gone on with where there are some")
    ] = Path("runs/sweep"),
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    workers: WorkersOption = "serial",
    cpus_per_worker: CpusOption = 1,
    gpus_per_worker: GpusOption = 0,
    shard: ShardOption = None,
) -> None:
    """Discover circuits over tasks, models, methods and seeds: one run each, and how alike seeds are. Resumes."""
    from rich.table import Table

    from interp.bench.sweep import Sweep, run_sweep, stability
    from interp.progress import bar

    cells = Sweep.load(file).cells()
    placement, part = where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    with goes_on(out):
        rows = run_sweep(
            cells, out, device=device, dtype=dtype, workers=placement, shard=part, stage=bar, say=typer.echo
        )
    if rows is None:
        typer.echo(f"\nshard {part} of {out} is done; the same command without --shard gathers all")
        return
    names = ("task", "model", "method", "runs", "Jaccard", "members, and in how many runs")
    table = Table(*names, box=None)
    for row in stability(rows):
        alike = "–" if row["jaccard"] is None else f"{row['jaccard']:.2f}"
        heads = ", ".join(f"{site} {count}" for site, count in row["heads"].items())
        table.add_row(row["task"], row["model"], row["method"], str(row["runs"]), alike, heads)
    plain_console().print(table)
    typer.echo(f"\nsaved    {out / 'sweep.json'}, and a run in each folder beside it")
