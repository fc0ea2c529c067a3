"""Tasks: pairs of a clean and a corrupt prompt, ready for any tokenizer."""

from interp.errors import InputError, TooFewPairs
from interp.prompts.pairs import Metric, PromptPair, PromptPairs, Task
from interp.prompts.prompt_file import PromptFile, write_prompt_file
from interp.tasks.agreement import Agreement
from interp.tasks.antonym import Antonym
from interp.tasks.capital import Capital
from interp.tasks.docstring import Docstring
from interp.tasks.greater_than import GreaterThan
from interp.tasks.ioi import IOI
from interp.tasks.pronoun import Pronoun
from interp.tasks.registry import load_task, task_names
from interp.tasks.successor import Successor

__all__ = [
    "IOI",
    "Agreement",
    "Antonym",
    "Capital",
    "Docstring",
    "GreaterThan",
    "InputError",
    "Metric",
    "PromptFile",
    "PromptPair",
    "PromptPairs",
    "Pronoun",
    "Successor",
    "Task",
    "TooFewPairs",
    "load_task",
    "task_names",
    "write_prompt_file",
]
