"""Writing files so that a reader never meets half of one: a temporary name first, then a rename."""

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from interp.errors import InputError

_SAMPLE_BYTES = 1 << 20
_TEMPORARY = 14
"""Bytes by which the name that is written first is longer than the last: ``.NAME.old.12345678``."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()
"""Read once, while there is one thread: reading means setting, and other threads write files meanwhile."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and vanishes on any failure.

    Of a link it is what the link leads to that is replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(f"cannot write {path} ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_tensors(
    path: Path | str, framework: Literal["pt", "numpy"] = "pt"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every tensor of a safetensors file, and the words in its header.

    Raises:
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(path, framework=framework) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write ``value`` as strict JSON (no NaN), atomically."""
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def unused(path: Path) -> Path:
    """``path``, or ``path-2``, … of the same ending, where nothing lies yet: for results that took long to make."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(place for place in itertools.chain([path], numbered) if not place.exists())


def check_writable(path: Path, option: str) -> None:
    """Refuse a path at which nothing could be written, before any work is done for it.

    Tries it with a nameless file in the nearest folder that exists: permissions, read-only mounts and full disks
    show, and nothing is left.

    Raises:
        InputError: naming the option, the path and the reason.
    """
    place = Path(os.path.realpath(path))
    try:
        parent = next(folder for folder in place.parents if folder.exists())
        longest = os.pathconf(parent, "PC_NAME_MAX") - _TEMPORARY if hasattr(os, "pathconf") else None
        for part in place.relative_to(parent).parts:
            if longest is not None and len(os.fsencode(part)) > longest:
                raise InputError(f"{option} {path}: a name may have {longest} bytes")
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(bytes(_SAMPLE_BYTES))
            file.flush()
    except OSError as error:
        raise InputError(f"{option} {path}: nothing can be written there ({error.strerror})") from None


DESCRIPTIONS = {
    "run.json": "a run",
    "manifest.json": "codebooks or a code index",
    "bench.json": "a bench",
    "result.json": "a reproduction",
}
"""By which file each kind of folder is known."""
_WHOLE = {
    ("run.json", "details.json"): DESCRIPTIONS["run.json"],
    ("bench.json", "bench.parquet"): DESCRIPTIONS["bench.json"],
    ("config.json", "model*.safetensors"): "a model",
}
"""Folders in which nothing but the command that made them writes, by what lies in them."""


def check_folder(folder: Path, own: str) -> None:
    """As :func:`check_writable` of the file ``own`` in the folder of ``--out``, and refuse one of another kind.

    Two kinds in one folder would be taken for one, and replaced as one.
    """
    for name, kind in DESCRIPTIONS.items():
        if name != own and (Path(folder) / name).exists():
            raise InputError(f"--out {folder} holds {kind}: name a new folder")
    check_writable(Path(folder) / own, "--out")


def check_file(path: Path, option: str, *, read: Iterable[Path | str | None] = ()) -> None:
    """As :func:`check_writable`, and refuse what is no file or would be missed.

    Args:
        read: what the command reads; what is no file's name among it does not matter.

    Raises:
        InputError: ``-``, a folder, a device or pipe, a file that is read, a part of a run, of codebooks or the like.
    """
    path = Path(path)
    if str(path) == "-":
        raise InputError(f"{option} -: name a file; standard output has what is told on the way")
    if path.is_dir():
        raise InputError(f"{option} {path} is a folder: name a file")
    if path.exists():
        if not path.is_file():
            raise InputError(f"{option} {path} is a device or a pipe: name a file")
        if any(given and Path(given).is_file() and path.samefile(given) for given in read):
            raise InputError(f"{option} {path} is what is read: name another file")
        if (whole := _belongs_to(Path(os.path.realpath(path)))) is not None:
            raise InputError(f"{option} {path} is part of {whole}: name another file")
    check_writable(path, option)


def _belongs_to(path: Path) -> str | None:
    """What an existing file is a part of. One name alone tells little: anyone may call a file ``result.json``."""
    if path.name == "manifest.json":
        return DESCRIPTIONS[path.name]
    for names, kind in _WHOLE.items():
        if all(any(path.parent.glob(name)) for name in names):
            return kind
    return None
