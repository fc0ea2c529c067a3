"""What lies in the runs folder: needs no library of a model, so that the first page has it at once."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from interp.app import engine
from interp.errors import InputError
from interp.files import read_json

BENCH, QUALITY, WHY, DIFF = "bench.json", "quality.json", "why.json", "diff.json"
_KINDS: dict[str, Callable[[Path], bool]] = {
    "runs": lambda folder: (folder / "run.json").is_file(),
    "indexes": lambda folder: _holds_index(folder),
    "codebooks": lambda folder: (folder / "manifest.json").is_file() and not _holds_index(folder),
    "benches": lambda folder: (folder / BENCH).is_file(),
    "explanations": lambda folder: (folder / WHY).is_file(),
    "changes": lambda folder: (folder / DIFF).is_file(),
}


def _holds_index(folder: Path) -> bool:
    """Also one that is damaged, or not finished."""
    return any(path.is_file() for path in folder.glob("*.npy")) or (folder / ".work" / "ids.npy").is_file()


def folders(kind: str) -> list[str]:
    """Names of the folders of a kind, newest first; a name from outside is only ever looked up in this list.

    Links to other places are left out.
    """
    runs, is_one = engine.runs(), _KINDS[kind]
    dated = []
    for folder in runs.iterdir() if runs.is_dir() else ():
        # one that is being replaced is away for a moment; Python has RuntimeError for a link to itself
        with contextlib.suppress(OSError, RuntimeError):
            if folder.name[0] != "." and folder.resolve().parent == runs and is_one(folder):
                dated.append((-folder.stat().st_mtime, folder.name))
    return [name for _, name in sorted(dated)]


def changed(path: Path) -> int:
    """When a file was written: what was read of another one of that name is not used any more."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): if it is being replaced, reload the page in a moment"
        ) from None


def check_inside(path: Path) -> None:
    """Raise :class:`InputError` if a file or folder of the runs folder, or anything in it, is a link out of there, or
    something that cannot be read to its end, such as a named pipe."""
    runs = engine.runs()
    try:
        for entry in (path, *path.rglob("*")):
            if not entry.resolve().is_relative_to(runs):
                raise InputError(f"{entry} is a link to another place, which is not followed")
            if entry.exists() and not (entry.is_file() or entry.is_dir()):
                raise InputError(f"{entry} is neither a file nor a folder")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def says(path: Path, name: str) -> Any:
    """What a JSON file of the runs folder says under a name; None if it cannot be read: who opens it tells why."""
    try:
        check_inside(path)
        return _value_of(path, name, changed(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@st.cache_data(max_entries=512, show_spinner=False)
def _value_of(path: Path, name: str, changed: int) -> Any:  # noqa: ARG001 - a key of the cache
    return read_json(path)[name]


def shown_path() -> str:
    """The runs folder as it is typed in a command."""
    working_folder = Path.cwd()
    return str(
        engine.runs().relative_to(working_folder) if engine.runs().is_relative_to(working_folder) else engine.runs()
    )
