"""Tasks: pairs of a clean and a corrupt prompt, ready for any tokenizer. A task's module is loaded when it is asked
for."""

import importlib
from typing import Any

from interp.errors import InputError, TooFewPairs
from interp.prompts.pairs import Metric, PromptPair, PromptPairs, Task
from interp.prompts.prompt_file import PromptFile, TaskFile, write_prompt_file
from interp.prompts.template_file import TemplateFile, load_task_file
from interp.tasks.registry import SHIPPED, load_task, task_names

_CLASSES = {place.partition(":")[2]: place.partition(":")[0] for place in SHIPPED.values()}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"interp.tasks.{_CLASSES[name]}"), name)
