"""Tasks: pairs of a clean and a corrupt prompt, ready for any tokenizer."""

from .agreement import Agreement
from .antonym import Antonym
from .capital import Capital
from .docstring import Docstring
from .errors import InputError, TooFewPairs
from .greater_than import GreaterThan
from .ioi import IOI
from .pairs import Metric, PromptPair, PromptPairs, Task
from .prompt_file import PromptFile, write_prompt_file
from .pronoun import Pronoun
from .registry import load_task, task_names
from .successor import Successor

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
