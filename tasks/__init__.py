"""Tasks: pairs of a clean and a corrupt prompt, ready for any tokenizer."""

from .docstring import Docstring
from .errors import InputError
from .greater_than import GreaterThan
from .ioi import IOI
from .pairs import Metric, PromptPair, PromptPairs, Task
from .prompt_file import PromptFile, write_prompt_file
from .registry import load_task, task_names

__all__ = [
    "IOI",
    "Docstring",
    "GreaterThan",
    "InputError",
    "Metric",
    "PromptFile",
    "PromptPair",
    "PromptPairs",
    "Task",
    "load_task",
    "task_names",
    "write_prompt_file",
]
