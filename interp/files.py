"""Files are written whole or not at all, under a temporary name that is then changed; and what may be replaced.

One rule: nothing that exists is replaced, except a result by one of the same kind and request, or with ``--overwrite``.
Nothing is written inside a folder that a marker file says is a result, nor inside this package.
"""

import contextlib
import errno
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError, safe_open

from interp.errors import InputError, fault

_Result = TypeVar("_Result")


UMASK = os.umask(0)
os.umask(UMASK)
"""Read once, while there is one thread: reading means setting, and other threads write files meanwhile."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and vanishes on any failure.

    Of a link it is what the link leads to that is replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a link may lead to a device, which root could replace
        raise OSError(errno.EINVAL, "no regular file", str(path))
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


def readable(path: Path | str) -> Path:
    """The path of a file that can be read to its end, else :class:`OSError`: none, unreadable, a pipe or a device."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    path.open("rb").close()  # safetensors says of a file that may not be read that there is none
    return path


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises as :func:`readable` and :func:`parse_json`."""
    return parse_json(readable(path).read_bytes())


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; raises :class:`ValueError` if it is none, has NaN, or is nested too deep."""
    try:
        return json.loads(text, parse_constant=int)  # NaN is none
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_tensors(path: Path | str, framework: Literal["pt", "numpy"] = "pt") -> tuple[dict[str, Any], dict[str, str]]:
    """Every tensor of a safetensors file, and the words in its header; ``OSError`` or ``SafetensorError`` if not."""
    with safe_open(readable(path), framework=framework) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_result(path: Path, kind: str, command: str, parse: Callable[[Any], _Result]) -> _Result:
    """What a command has left in a folder. :class:`InputError`: it is not there, or cannot be read. ``kind``,
    ``command``: what it is, and what makes it, for the error. ``parse``: of its JSON."""
    from pydantic import ValidationError

    if not path.is_file():
        raise InputError(f"{path.parent} holds no {kind}: {command} makes one")
    try:
        return parse(read_json(path))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        wrong = fault(error) if isinstance(error, ValidationError) else str(error)
    raise InputError(f"{path} cannot be read ({wrong}): make it again by {command}")


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


WORK = ".work"  # the folder, inside a result's, of what is being made
_KINDS = {
    "a run": ("run.json", "format"),
    "codebooks": ("manifest.json", "sites"),
    "a code index": ("manifest.json", "layout"),
    "a bench": ("bench.json", "format"),
    "an explanation": ("why.json", "answers"),
    "a difference": ("diff.json", "n_changed"),
}
"""By which file, with which key in it, the folder of each kind of result is known."""
_PACKAGE = Path(__file__).resolve().parent


def results_in(folder: Path) -> set[str]:
    """The kinds of result whose marker lies in a folder; a damaged marker counts for every kind that it may be of."""
    kinds = set()
    for kind, (name, key) in _KINDS.items():
        with contextlib.suppress(OSError):
            try:
                marker = read_json(folder / name)
            except ValueError:
                marker = {key: None}
            if isinstance(marker, dict) and key in marker:
                kinds.add(kind)
    return kinds


def check_file(
    path: Path,
    option: str,
    *,
    request: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    within: Path | None = None,
) -> None:
    """Refuse, before the work, a file that must not be written.

    Nothing that exists is replaced but with ``overwrite``, or by the result of the same request. Nothing is written
    into a result's folder or into this package. The :class:`InputError` names the option, the path and the reason.

    Args:
        request: what the result is made of; it is found again by :func:`request_of`.
        within: the result's folder that the file is a part of.
    """
    path = Path(path)
    if str(path) == "-" or os.path.lexists(path) and not path.is_file():
        raise InputError(f"{option} {path} is no file: name one")
    _check_place(path, option, within)
    if path.exists() and not overwrite and (request is None or request_of(path) != request):
        raise InputError(f"{option} {path} is there already: name another file, or replace it with --overwrite")


def check_folder(folder: Path, kind: str, *, contents: Container[str] | None = None) -> None:
    """As :func:`check_file`, of a result's folder ``--out``: a new one, or one without a result of another kind.
    ``kind``: such as ``codebooks``; see ``_KINDS``. ``contents``: all that may lie there, where the whole folder is
    replaced."""
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--out {folder} is no folder: name one")
    _check_place(folder / _KINDS[kind][0], "--out", folder)
    kinds, others = results_in(folder), set()
    if contents is not None and folder.is_dir():
        others = {path.name for path in folder.iterdir() if path.name not in contents or not kinds}
    if kinds and kind not in kinds:
        others = kinds
    elif not kinds and os.path.lexists(folder / _KINDS[kind][0]):
        others = {_KINDS[kind][0]}
    if others:
        raise InputError(f"--out {folder} holds {', '.join(sorted(others)[:3])}: name a new folder")


def clear_folder(folder: Path, kind: str) -> None:
    """Delete the result of this kind in a folder, finished or begun, for ``--overwrite``."""
    check_folder(folder, kind)
    if results_in(folder) or (folder / WORK).is_dir():
        if Path.cwd().is_relative_to(folder.resolve()):
            raise InputError(f"--out {folder} is the current folder: name another, such as runs/mine")
        shutil.rmtree(folder.resolve())


def request_of(path: Path) -> Any:
    """The request that a result says it was made for, ``None`` if it says none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
        if path.suffix == ".safetensors":
            with safe_open(readable(path), framework="numpy") as file:
                return parse_json(file.metadata()["interp"])["provenance"]["request"]
        return read_json(path)["request"]
    return None


def check_writable(path: Path, option: str) -> None:
    """Refuse a path at which no file can be made: a name too long, no permission, a file where a folder should be."""
    place = Path(os.path.realpath(path))
    parent = next(folder for folder in place.parents if folder.exists())
    try:
        tempfile.NamedTemporaryFile(prefix=f".{place.name}.", dir=parent).close()
    except OSError as error:
        raise InputError(f"{option} {path}: nothing can be written there ({error.strerror})") from None


def _check_place(path: Path, option: str, within: Path | None) -> None:
    place = Path(os.path.realpath(path))
    if place.is_relative_to(_PACKAGE):
        raise InputError(f"{option} {path} belongs to the installed package: name another place")
    for folder in place.parents:
        if within is None or folder != Path(os.path.realpath(within)):
            kinds = results_in(folder) or ({"being made"} if (folder / WORK).is_dir() else None)
            if kinds:
                raise InputError(f"{option} {path} lies in {folder}, which is {' or '.join(kinds)}: name another place")
    check_writable(path, option)
