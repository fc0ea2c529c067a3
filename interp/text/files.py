"""Text files: ``.txt`` with a blank line between documents, ``.jsonl`` with one document a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from interp.models import Model
from interp.progress import Stage, silent
from interp.tasks.errors import InputError
from interp.text.special import check_unicode

KINDS = (".txt", ".jsonl")


class FileText:
    """A file, or every ``.txt`` and ``.jsonl`` file below a folder.

    Each line of a ``.jsonl`` file is a string, or an object whose ``text`` is one.
    """

    endless = False

    def __init__(self, path: Path) -> None:
        self.path, self.spec = path, str(path)
        if path.is_file() and path.suffix.lower() not in KINDS:
            raise InputError(f"text {path}: a text file ends in {' or '.join(KINDS)}")

    def documents(self, model: Model | None, *, seed: int, stage: Stage = silent) -> Iterator[str]:  # noqa: ARG002
        paths = [self.path]
        if self.path.is_dir():
            paths = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in KINDS and p.is_file())
            if not paths:
                raise InputError(f"text {self.path}: there is no {' or '.join(KINDS)} file in this folder")
        for path in paths:
            yield from _json_lines(path) if path.suffix.lower() == ".jsonl" else _paragraphs(path)


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number} is not JSON: {getattr(error, 'msg', None) or error}"
            ) from None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(f'{path}, line {number}: expected a string, or an object with a string "text"')
        check_unicode(text, f"{path}, line {number}")
        yield text


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the text file {path}: {error}") from None
