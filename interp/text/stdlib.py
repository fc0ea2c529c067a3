"""Docstrings of Python's standard library: text by people that lies on every machine.

Files are parsed, never imported. Of all docstrings those that read like prose are kept: some length, mostly letters,
no doctest. About 260 000 tokens with Python 3.11; other versions have other texts, which their fingerprint tells.
"""

import ast
import sysconfig
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from interp.models import Model
from interp.progress import Stage, silent
from interp.tasks.errors import InputError

LEAST_WORDS, LEAST_LETTERS = 20, 0.8
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"}


class StdlibText:
    """See the module's docstring."""

    endless = False

    def __init__(self, _options: str = "") -> None:
        self.spec = "stdlib"

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        found = stdlib_docstrings()
        if not found:
            raise InputError("text stdlib: this Python has no source files of its standard library")
        return iter(found)


@cache
def stdlib_docstrings() -> tuple[str, ...]:
    """Every prose-like docstring once, in the order of the files' names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (p for p in root.rglob("*.py") if not _SKIPPED & set(p.relative_to(root).parts))
    found: dict[str, None] = {}
    for path in sorted(paths):
        for text in _docstrings(path):
            if is_prose(text):
                found.setdefault(text)
    return tuple(found)


def is_prose(text: str) -> bool:
    """At least 20 words, four fifths letters and spaces, no doctest."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(text.split()) >= LEAST_WORDS and letters >= LEAST_LETTERS * len(text) and ">>>" not in text


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # a distribution may ship files for other versions
        return
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """What ``ast.walk`` yields, in its order, without the expressions, which are most of it and hold no docstring."""
    todo: deque[ast.AST] = deque([tree])
    while todo:
        node = todo.popleft()
        yield node
        for field in _BLOCKS:
            todo.extend(getattr(node, field, ()))
