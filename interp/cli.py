"""The command line: thin, and quick to answer ``--help`` (heavy imports happen inside the commands)."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import interp
from interp.tasks.errors import InputError

app = typer.Typer(
    name="interp",
    help="Read and steer language models by discrete codes; find the circuit behind a behaviour.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tasks_app = typer.Typer(help="List tasks, show their prompts, export them.", invoke_without_command=True)
models_app = typer.Typer(help="List the models that can be named, show one.", invoke_without_command=True)
cache_app = typer.Typer(
    help="Where the embedded model is kept, and emptying that.", invoke_without_command=True
)
app.add_typer(tasks_app, name="tasks")
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")

DEFAULT_MODEL = "smollm2-135m-instruct"
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="embedded model, Hugging Face id, folder, .gguf, planted model")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best there is if not given")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16")]
BatchOption = Annotated[int, typer.Option(help="prompts per forward pass")]
PairsOption = Annotated[
    int | None, typer.Option("--n", "-n", help="prompt pairs; the task's default if not given")
]
CounterfactualOption = Annotated[
    str | None, typer.Option(help="kind of corrupt prompt; the task's default first")
]


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and a non-zero exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except typer.Abort:
        _fail("interrupted: nothing half-written is left, an earlier result stays as it was", 130)
    except KeyboardInterrupt:
        _fail("interrupted: nothing half-written is left, an earlier result stays as it was", 130)
    except (MemoryError, OSError) as error:
        _fail(f"{error}: nothing half-written is left, an earlier result stays as it was", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)  # click's own usage errors
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, status: int) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"interp {interp.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _load(spec: str, device: str | None, dtype: str):
    from interp.models import load_model

    return load_model(spec, device=device, dtype=dtype)


def _options(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise InputError(f"--set {text!r}: write key=value, such as --set n_codes=300")
    return dict(text.split("=", 1) for text in texts)


@app.command()
def discover(
    task: Annotated[str, typer.Argument(help="ioi, greater-than, docstring, a prompt file, module:Class")],
    model: ModelOption = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="attribution, overlap or patching")] = "attribution",
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="seed of the prompts")] = 0,
    counterfactual: CounterfactualOption = None,
    candidates: Annotated[int, typer.Option(help="best-scored components checked by exact interchange")] = 30,
    threshold: Annotated[
        float, typer.Option(help="share of the clean–corrupt gap that makes a member")
    ] = 0.02,
    mlps: Annotated[bool, typer.Option("--mlps", help="let MLPs be members too")] = False,
    bos: Annotated[bool, typer.Option(help="prepend the beginning-of-sequence token")] = True,
    set_: Annotated[list[str], typer.Option("--set", help="a method's option, key=value; repeatable")] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="run folder; runs/TASK-METHOD if not given")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write the result here; - for stdout")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
) -> None:
    """Find the circuit that does TASK, check it by exact interchange, and write a run with its report."""
    from interp.console import print_members
    from interp.files import write_json
    from interp.progress import bar
    from interp.runs import check_destination
    from interp.scores import method_config
    from interp.tasks import load_task

    config = method_config(method, {"batch_size": str(batch_size), **_options(set_)})
    wanted = load_task(task)
    folder = out or Path("runs") / f"{wanted.name.replace('/', '-')}-{method}"
    check_destination(folder)
    typer.echo(f"loading {model}", err=True)
    loaded = _load(model, device, dtype)

    from interp.discovery import discover as find
    from interp.report import render_report

    run = find(
        wanted,
        model=loaded,
        method=method,
        n=n,
        seed=seed,
        counterfactual=counterfactual,
        config=config,
        n_candidates=candidates,
        threshold=threshold,
        mlps=mlps,
        bos=bos,
        batch_size=batch_size,
        stage=bar,
    )
    run.save(folder, report=render_report(run))
    if str(json_file) == "-":
        typer.echo(json.dumps(run.result, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(json_file, run.result)
    print_members(run)
    typer.echo(f"\nreport   {folder / 'report.html'}")
    typer.echo(
        f"next     interp compare {folder} OTHER_RUN     two runs side by side\n"
        f"         interp discover {task} --method overlap     the published code-overlap recipe\n"
        f"         interp tasks show {task}     the prompts and how the model scores on them"
    )


@app.command()
def reference(
    task: Annotated[
        str | None, typer.Argument(help="task to measure; without it, the references there are")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", "-n", help="prompt pairs")] = 200,
    seed: Annotated[
        int, typer.Option(help="seed of the prompts; not 0, so that discoveries are held out")
    ] = 1000,
    counterfactual: CounterfactualOption = None,
    out: Annotated[Path | None, typer.Option(help="safetensors file to write")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
) -> None:
    """Measure every head's and MLP's exact effect on TASK; resumes where a killed run stopped."""
    from interp.console import print_reference, print_references

    if task is None:
        print_references()
        return
    from interp.progress import bar
    from interp.reference import measure_reference
    from interp.tasks import load_task

    wanted = load_task(task)
    path = out or Path("references") / f"measured-{wanted.name}-{model.replace('/', '-')}.safetensors"
    loaded = _load(model, device, dtype)
    measured = measure_reference(
        wanted,
        loaded,
        n=n,
        seed=seed,
        counterfactual=counterfactual,
        checkpoint=path.with_suffix(".partial.safetensors"),
        batch_size=batch_size,
        stage=bar,
    )
    measured.save(path)
    path.with_suffix(".partial.safetensors").unlink(missing_ok=True)
    print_reference(measured)
    typer.echo(f"\nsaved    {path}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a run folder")]) -> None:
    """Write a run's report again."""
    from interp.report import write_report

    typer.echo(f"report   {write_report(run)}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="a run folder")],
    second: Annotated[Path, typer.Argument(help="another run folder")],
) -> None:
    """Put two runs side by side: shared members, rank correlation, heads that differ."""
    from interp.console import print_comparison
    from interp.report.compare import compare_runs
    from interp.runs import Run

    print_comparison(compare_runs(Run.load(first), Run.load(second)))


@app.command()
def doctor() -> None:
    """Check the installation: versions, the embedded model, generation with and without the KV cache."""
    from interp.doctor import diagnose

    findings = diagnose()
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command("app")
def workbench(
    port: Annotated[int, typer.Option(help="port on localhost")] = 8501,
) -> None:
    """Open the workbench in the browser (localhost only)."""
    import subprocess
    from importlib.util import find_spec

    main_file = find_spec("interp.app.main").origin
    command = [sys.executable, "-m", "streamlit", "run", main_file, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--browser.gatherUsageStats", "false"]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@tasks_app.callback()
def tasks_root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from interp.console import print_tasks

        print_tasks()


@tasks_app.command("show")
def tasks_show(
    task: Annotated[str, typer.Argument(help="a task")],
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", "-n", help="pairs that the score is taken over")] = 50,
    examples: Annotated[int, typer.Option(help="pairs printed")] = 3,
    seed: Annotated[int, typer.Option(help="seed of the prompts")] = 0,
    counterfactual: CounterfactualOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
    batch_size: BatchOption = 16,
) -> None:
    """Print example prompts with tokens and roles marked, and how the model scores on clean and corrupt ones."""
    from interp.console import print_examples
    from interp.tasks import load_task

    wanted = load_task(task)
    loaded = _load(model, device, dtype)
    pairs = wanted.sample(loaded.tokenizer, n, seed, counterfactual)
    print_examples(loaded, pairs, examples, batch_size)


@tasks_app.command("export")
def tasks_export(
    task: Annotated[str, typer.Argument(help="a task")],
    file: Annotated[Path, typer.Argument(help="prompt file to write, .json or .jsonl")],
    model: Annotated[str, typer.Option("--model", "-m", help="whose tokenizer")] = DEFAULT_MODEL,
    n: PairsOption = None,
    seed: Annotated[int, typer.Option(help="seed of the prompts")] = 0,
    counterfactual: CounterfactualOption = None,
) -> None:
    """Write a task's pairs as a prompt file, to edit or to use with other tools."""
    from interp.models import load_tokenizer
    from interp.tasks import load_task
    from interp.tasks.prompt_file import write_prompt_file

    wanted = load_task(task)
    tokenizer = load_tokenizer(model)
    pairs = wanted.sample(tokenizer, wanted.default_n if n is None else n, seed, counterfactual)
    write_prompt_file(pairs, file, tokenizer)
    typer.echo(f"saved    {file}")


@models_app.callback()
def models_root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from interp.console import print_models

        print_models()


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="a model spec")] = DEFAULT_MODEL,
    device: DeviceOption = None,
    dtype: DtypeOption = "float32",
) -> None:
    """Load a model and print what it is."""
    from interp.models import describe_model

    for key, value in describe_model(_load(model, device, dtype)).items():
        typer.echo(f"{key:<14} {value}")


@cache_app.callback()
def cache_root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from interp.models.embedded import cache_folder

        typer.echo(cache_folder())


@cache_app.command("clear")
def cache_clear() -> None:
    """Delete the cached model; it is fetched again when next needed."""
    import shutil

    from interp.models.embedded import cache_folder

    folder = cache_folder()
    shutil.rmtree(folder, ignore_errors=True)
    typer.echo(f"emptied  {folder}")


if __name__ == "__main__":
    main()
