"""``interp bench``: the table of methods. ``interp sweep``: discoveries over tasks, models, methods and seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.app import workbench_of
from interp.cli.options import DEFAULT_MODEL, names, numbers, option, whole_option
from interp.cli.terminal import goes_on, plain_console, suggest, table
from interp.errors import InputError


def _many(metavar: str, default: str, more: str = "", parser: Callable[[str], tuple] = names) -> Any:
    return typer.Option(parser=parser, metavar=metavar, show_default=default, help=f"separated by commas{more}")


def bench(
    tasks: Annotated[tuple | None, _many("TASKS", "all shipped and planted ones")] = None,
    methods: Annotated[tuple | None, _many("METHODS", "all but patching", "; or file.py:function")] = None,
    models: Annotated[tuple | None, _many("MODELS", DEFAULT_MODEL, "; planted tasks run on their own models")] = None,
    pairs: Annotated[tuple | None, _many("NUMBERS", "10,25,100", " of prompt pairs", parser=numbers)] = None,
    seeds: Annotated[int, whole_option("--seeds", least=1, most=1000, help="subsets of the pool drawn")] = 10,
    against: Annotated[
        str | None,
        option(
            "METHOD",
            "method the others are compared with",
            show_default="attribution if it is among them, else the first",
        ),
    ] = None,
    out: Annotated[Path, option("DIR", "folder of the results, gone on with where there are some")] = Path(
        "runs/bench"
    ),
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BatchOption = 16,
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
    shard: options.ShardOption = None,
) -> None:
    """Compare methods on the same pairs, judged by activation patching of other pairs. Resumes.

    Without the exact effects of a task on a model they are measured first, which takes long.
    """
    from interp.bench.plan import BenchPlan
    from interp.files import check_folder

    arguments: dict[str, Any] = dict(tasks=tasks, methods=methods, models=models, pairs=pairs, against=against)
    plan = BenchPlan(**{name: value for name, value in arguments.items() if value is not None}, seeds=seeds)
    check_folder(out, "a bench")
    if (missing := _lost(out / "bench.json", plan)) and not overwrite:
        raise InputError(
            f"--out {out}: the table there has {missing}, which this one would lack: ask for them too, name another "
            "folder, or replace it with --overwrite"
        )

    from interp.bench.run import run_bench
    from interp.cli.render import print_bench
    from interp.files import atomic_path, write_json, write_text
    from interp.progress import bar
    from interp.report.bench import render_bench

    placement, part = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    with goes_on(out):
        result = run_bench(
            plan,
            out,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            workers=placement,
            shard=part,
            stage=bar,
            say=typer.echo,
        )
    if result is None:
        typer.echo(f"\nshard {part} of {out} is done; the same command without --shard gathers all")
        return
    import pandas

    write_json(out / "bench.json", result)
    with atomic_path(out / "bench.parquet") as temporary:
        pandas.DataFrame(result["cells"]).to_parquet(temporary)
    write_text(out / "bench.html", render_bench(result, str(out)))
    print_bench(result)
    typer.echo(f"\nsaved    {out / 'bench.html'}, bench.json, bench.parquet")
    suggest((workbench_of(out), "the table in the browser, on the page Evaluation"))


def _lost(path: Path, plan: Any) -> str:
    """What the table that lies there has and a new one would lack, in words; nothing of a damaged one."""
    from interp.files import read_json

    try:
        old = read_json(path)["plan"]
        parts = {name: set(old[name]) - set(getattr(plan, name)) for name in ("tasks", "methods", "models", "pairs")}
        fewer = old["seeds"] > plan.seeds
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    missing = [f"{name} {', '.join(map(str, sorted(more)))}" for name, more in parts.items() if more]
    return "; ".join(missing + [f"{old['seeds']} seeds"] * fewer)


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
