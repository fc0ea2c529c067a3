"""``interp tasks``: list tasks, show their prompts, export them."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, pairs_option, whole_option
from interp.cli.terminal import plain_console, suggest, table
from interp.errors import InputError

tasks_app = typer.Typer(
    add_completion=False,
    help="Without a command: list tasks. Show their prompts, export them.",
    invoke_without_command=True,
)


@tasks_app.callback()
def tasks_root(context: options.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from interp.tasks import load_task, task_names

    rows = (
        (task.name, task.metric, ", ".join(task.counterfactuals), ", ".join(task.roles), task.default_n)
        for task in map(load_task, task_names())
    )
    console = plain_console()
    console.print(table(("task", "metric", "counterfactuals (default first)", "roles", "n"), rows))
    console.print("or a .json / .jsonl file of prompts or templates, or module:Class of your own")
    console.print("interp tasks show TASK prints prompts and how a model scores on them")


@tasks_app.command("show")
def tasks_show(
    task: Annotated[str, typer.Argument(metavar="TASK", help="a task")],
    model: options.ModelOption = None,
    n: Annotated[
        int | None, pairs_option(help="pairs that the score is taken over (default: 50, or as many as there are)")
    ] = None,
    examples: Annotated[int, whole_option(least=0, help="pairs printed")] = 5,
    seed: options.SeedOption = 0,
    counterfactual: options.CounterfactualOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
    batch_size: options.BatchOption = 16,
) -> None:
    """Print example prompts with tokens, roles and variables, and how the model scores on clean and corrupt ones."""
    task_loaded, spec = options.task_and_model(task, model, counterfactual)

    from interp.cli.render import print_examples
    from interp.models import load_model
    from interp.prompts.sampling import sample_pairs

    loaded = load_model(spec, device=device, dtype=dtype)
    pairs = sample_pairs(task_loaded, loaded.tokenizer, n, 50, seed, counterfactual)
    print_examples(loaded, pairs, examples, batch_size)


@tasks_app.command("export")
def tasks_export(
    task: Annotated[str, typer.Argument(metavar="TASK", help="a task")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="prompt file to write, .json")],
    model: options.ModelOption = None,
    n: options.PairsOption = None,
    seed: options.SeedOption = 0,
    counterfactual: options.CounterfactualOption = None,
    overwrite: options.OverwriteOption = False,
) -> None:
    """Write a task's pairs as a prompt file for a model's tokenizer, to edit or to use with other tools."""
    from interp.files import check_file

    task_loaded, spec = options.task_and_model(task, model, counterfactual)
    if file.suffix.lower() != ".json":
        raise InputError(f"{file}: a prompt file is written as JSON, so its name ends in .json")
    check_file(file, "FILE", overwrite=overwrite)

    from interp import MIN_PAIRS
    from interp.models import load_tokenizer
    from interp.prompts.prompt_file import write_prompt_file
    from interp.prompts.sampling import sample_pairs

    tokenizer = load_tokenizer(spec)
    pairs = sample_pairs(task_loaded, tokenizer, n, task_loaded.default_n, seed, counterfactual)
    write_prompt_file(pairs, file, tokenizer)
    typer.echo(f"saved    {file}: {len(pairs)} pairs")
    named = [] if spec == DEFAULT_MODEL else ["--model", spec]
    if len(pairs) < MIN_PAIRS:
        suggest((["tasks", "show", str(file), *named], f"too few to discover with: that takes {MIN_PAIRS}"))
    else:
        suggest((["discover", str(file), *named], "the circuit behind them"))
