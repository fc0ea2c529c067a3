"""From what a user writes for a task (a name, a file, a class) to the task."""

import difflib
import inspect
from pathlib import Path
from typing import Any, get_args

import interp
from interp.errors import InputError, whole_number
from interp.prompts.pairs import Metric, Task
from interp.prompts.template_file import load_task_file
from interp.prompts.user_code import FAILURES, load_object, told

SHIPPED = {
    "ioi": "ioi:IOI",
    "greater-than": "greater_than:GreaterThan",
    "docstring": "docstring:Docstring",
    "agreement": "agreement:Agreement",
    "pronoun": "pronoun:Pronoun",
    "capital": "capital:Capital",
    "successor": "successor:Successor",
    "antonym": "antonym:Antonym",
}
"""Where each task of the package stands: module and class."""


def task_names() -> tuple[str, ...]:
    """The names of all tasks that ship, those of the planted models last."""
    return (*SHIPPED, *interp.planted_task_names())


def load_task(spec: str | Path | Task | object) -> Task:
    """Return the task that ``spec`` names, or is. ``spec``: a shipped name (``task_names()``), a file of prompts or
    templates (``.json``, ``.jsonl``), or your own class as ``package.module:ClassName`` or
    ``path/to/file.py:ClassName``; the class is called without arguments. Or a task itself, an object of such a class.
    :class:`InputError`: none of these, with the allowed names; or a file or class that is no task, with what it lacks.

    >>> pairs = load_task("ioi").sample(model.tokenizer, n=4, seed=0)
    >>> len(pairs), sorted(pairs[0].positions)
    (4, ['END', 'IO', 'S1', 'S1+1', 'S2'])
    """
    if isinstance(spec, Path):
        spec = str(spec)
    if isinstance(spec, type):
        spec = _made(spec, spec.__name__)
    if not isinstance(spec, str):
        _check_protocol(spec, type(spec).__name__)
        return spec
    if spec in SHIPPED:
        return load_object(f"interp.tasks.{SHIPPED[spec]}")()
    if spec.startswith("planted-"):
        return interp.load_planted_task(spec)
    if Path(spec).suffix.lower() in (".json", ".jsonl"):
        return load_task_file(spec)
    if ":" in spec:
        loaded = load_object(spec)
        task = _made(loaded, spec) if isinstance(loaded, type) else loaded
        _check_protocol(task, spec)
        return task
    close = difflib.get_close_matches(spec.lower().replace("_", "-"), task_names(), n=1)
    raise InputError(
        f"unknown task {spec!r}{f', did you mean {close[0]!r}?' if close else ''} "
        f"(tasks: {', '.join(task_names())}; or a .json or .jsonl file of prompts or templates, or module:ClassName)"
    )


def _made(kind: type, spec: str) -> Any:
    try:
        return kind()
    except FAILURES as error:
        raise InputError(f"{spec}: {kind.__name__}() failed: {told(error)}") from error


def _check_protocol(task: Any, spec: str) -> None:
    wanted = ("name", "metric", "roles", "counterfactuals", "default_n", "sample")
    missing = [attribute for attribute in wanted if not hasattr(task, attribute)]
    if missing:
        raise InputError(f"{spec} is no task: it lacks {', '.join(missing)} (a task has {', '.join(wanted)})")
    if not isinstance(task.name, str) or not task.name:
        raise InputError(f"{spec}: name {task.name!r} must be a text")
    if not callable(task.sample):
        raise InputError(f"{spec} is no task: its sample is not a method")
    _check_sample(task.sample, spec)
    if task.metric not in get_args(Metric):
        raise InputError(f"{spec}: metric {task.metric!r} is not one of {', '.join(get_args(Metric))}")
    if not isinstance(task.counterfactuals, tuple | list) or not task.counterfactuals:
        raise InputError(f"{spec}: counterfactuals must be a tuple of at least one kind, the default first")
    if not isinstance(task.roles, tuple | list):
        raise InputError(f"{spec}: roles {task.roles!r} must be a tuple of names")
    if whole_number(f"{spec}: default_n", task.default_n) < 1:
        raise InputError(f"{spec}: default_n {task.default_n!r}: it must be at least 1")


def _check_sample(sample: Any, spec: str) -> None:
    """Refuse a ``sample`` that cannot be called as every task's is."""
    try:
        signature = inspect.signature(sample)
    except (TypeError, ValueError):  # some that are written in C tell none
        return
    try:
        signature.bind("tokenizer", 1, 0, None, bos=True)
    except TypeError as error:
        raise InputError(
            f"{spec}: sample{signature} cannot be called as "
            f"sample(tokenizer, n, seed, counterfactual, bos=True): {error}"
        ) from None
