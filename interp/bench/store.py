"""Results on disk: one file a cell, written whole or not at all, and read only if it is what was asked for.

::

    OUT/bench.json, bench.parquet, bench.html       the table
    OUT/TASK--MODEL/reference-n200.safetensors      exact effects, where none is shipped
    OUT/TASK--MODEL/METHOD/pool.safetensors         scores of every pair of the pool that a cell needs
    OUT/TASK--MODEL/METHOD/n10-seed0.json           a cell

Deleting a method's folder makes the next run do it again.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.files import read_json, write_json
from interp.tasks.errors import InputError

FORMAT = 1
Say = Callable[[str], None]


def write_record(path: Path, settings: dict, result: dict) -> None:
    """Keep ``result`` with the settings it depends on, and a checksum of both."""
    write_json(
        path, {"format": FORMAT, "sha256": _digest(settings, result), "settings": settings, "result": result}
    )


def read_record(path: Path, settings: dict, say: Say) -> dict | None:
    """The result kept at ``path``, or ``None`` with a line that says why it has to be made again."""
    if not path.is_file():
        return None
    try:
        kept, result = whole_record(path)
    except InputError:
        say(f"{path} is damaged: done again")
        return None
    if kept != _as_json(settings):
        say(f"{path} was made with other settings ({_difference(kept, settings)}): done again")
        return None
    return result


def whole_record(path: Path) -> tuple[dict, dict]:
    """The settings and the result kept at ``path``, whatever they are.

    Raises:
        InputError: not there, of another format, or not as it was written.
    """
    try:
        kept = read_json(path)
        whole = kept["format"] == FORMAT and kept["sha256"] == _digest(kept["settings"], kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged: delete it, and interp bench makes it again")
    return kept["settings"], kept["result"]


def _as_json(value: Any) -> Any:
    """As it comes back from a file: tuples are lists there."""
    return json.loads(json.dumps(value))


def _digest(settings: dict, result: dict) -> str:
    text = json.dumps([settings, result], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(kept: dict, wanted: dict) -> str:
    wanted = _as_json(wanted)
    names = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
    return ", ".join(names)
