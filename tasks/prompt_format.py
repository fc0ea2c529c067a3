"""Reading the file format of prompts: every entry checked, every error naming its place."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from .errors import InputError
from .pairs import Metric

KEYS = ("clean", "corrupt", "answers", "wrong_answers")
FORMAT = (
    '{"prompts": [{"clean": …, "corrupt": …, "answers": […], "wrong_answers": […]}], '
    '"word_idxs": {role: position}}'
)


@dataclass(frozen=True)
class FilePrompt:
    """One checked entry of a prompt file."""

    index: int
    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    word_idxs: dict[str, int]
    """Token index by role, counted without BOS."""


def parse_prompts(data: bytes, path: Path) -> tuple[list[FilePrompt], Metric]:
    """The prompts of a ``.jsonl`` file, or of a JSON file, and the metric to score them by.

    Args:
        path: what the file is called; it is not read.

    Raises:
        InputError: not UTF-8, not JSON, no prompt, or an entry that lacks a key or has a wrong type.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if path.suffix.lower() == ".jsonl":
        return _parse_lines(text, str(path)), "logit_diff"
    return _parse_json(text, str(path))


def read_file(path: Path) -> bytes:
    """What a prompt file holds; a file that cannot be read is an :class:`InputError`."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; a prompt file (.json or .jsonl) is needed") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _load(text: str, where: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON at {place}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: JSON that cannot be read: {error}") from None


def _parse_json(text: str, where: str) -> tuple[list[FilePrompt], Metric]:
    document = _load(text, where)
    if not isinstance(document, dict):
        raise InputError(f"{where}: the JSON is a {_kind(document)}, not an object of the form {FORMAT}")
    if "prompts" not in document:
        raise InputError(f'{where}: lacks the key "prompts"; the form is {FORMAT}')
    entries = document["prompts"]
    if not isinstance(entries, list):
        raise InputError(f'{where}: "prompts" is a {_kind(entries)}, not a list')
    metric = document.get("metric", "logit_diff")
    if metric not in get_args(Metric):
        raise InputError(f"{where}: metric {metric!r} is not one of {', '.join(get_args(Metric))}")
    shared = _parse_roles(document.get("word_idxs", {}), where)
    prompts = [_parse_prompt(entry, i, f"{where}: prompts[{i}]", shared) for i, entry in enumerate(entries)]
    if not prompts:
        raise InputError(f'{where}: "prompts" is empty')
    return prompts, metric


def _parse_lines(text: str, where: str) -> list[FilePrompt]:
    # only "\n" ends a line: JSON text may hold other Unicode line separators
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    prompts = [
        _parse_prompt(_load(line, where, number), i, f"{where}: prompts[{i}] (line {number})", {})
        for i, (number, line) in enumerate(lines)
    ]
    if not prompts:
        raise InputError(f"{where}: holds no prompt")
    return prompts


def _parse_prompt(entry: Any, index: int, where: str, shared: dict[str, int]) -> FilePrompt:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is a {_kind(entry)}, not an object with {', '.join(KEYS)}")
    for key in KEYS:
        if key not in entry:
            raise InputError(f'{where} lacks the key "{key}"')
    for key in ("clean", "corrupt"):
        _check_text(entry[key], f'{where}: "{key}"')
    for key in ("answers", "wrong_answers"):
        if not isinstance(entry[key], list) or not entry[key]:
            raise InputError(f'{where}: "{key}" must be a list of at least one text, not {entry[key]!r:.60}')
        for answer in entry[key]:
            _check_text(answer, f'{where}: an entry of "{key}"')
    return FilePrompt(
        index=index,
        clean=entry["clean"],
        corrupt=entry["corrupt"],
        answers=tuple(entry["answers"]),
        wrong_answers=tuple(entry["wrong_answers"]),
        word_idxs={**shared, **_parse_roles(entry.get("word_idxs", {}), where)},
    )


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"{what} must be a text that is not empty, not {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what} holds half of a surrogate pair, which is not text") from None


def _parse_roles(roles: Any, where: str) -> dict[str, int]:
    if not isinstance(roles, dict):
        raise InputError(f'{where}: "word_idxs" is a {_kind(roles)}, not an object of role: position')
    for role, position in roles.items():
        _check_text(role, f"{where}: a role of word_idxs")
        if isinstance(position, bool) or not isinstance(position, int) or position < 0:
            raise InputError(
                f"{where}: word_idxs[{role!r}] is {position!r:.60}, not a token position of 0 or more"
            )
    return {role: position for role, position in roles.items() if role.lower() != "end"}


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
