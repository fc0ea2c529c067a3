"""``interp sweep``: discoveries over tasks, models, methods and seeds."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options
from interp.cli.options import option
from interp.cli.terminal import goes_on, plain_console, table


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON with tasks, and models, methods, seeds, options if wanted")
    ],
    out: Annotated[Path, option("DIR", "folder of the runs, gone on with where there are some")] = Path("runs/sweep"),
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
    shard: options.ShardOption = None,
) -> None:
    """Discover circuits over tasks, models, methods and seeds: one run each, and how alike seeds are. Resumes."""
    from interp.bench.sweep import Sweep, run_sweep, stability
    from interp.progress import bar

    cells = Sweep.load(file).cells()
    placement, part = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    with goes_on(out):
        rows = run_sweep(
            cells, out, device=device, dtype=dtype, workers=placement, shard=part, stage=bar, say=typer.echo
        )
    if rows is None:
        typer.echo(f"\nshard {part} of {out} is done; the same command without --shard gathers all")
        return
    columns = ("task", "model", "method", "runs", "Jaccard", "members, and in how many runs")
    lines = []
    for row in stability(rows):
        alike = "–" if row["jaccard"] is None else f"{row['jaccard']:.2f}"
        heads = ", ".join(f"{site} {count}" for site, count in row["heads"].items())
        lines.append((row["task"], row["model"], row["method"], row["runs"], alike, heads))
    plain_console().print(table(columns, lines))
    typer.echo(f"\nsaved    {out / 'sweep.json'}, and a run in each folder beside it")
