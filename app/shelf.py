"""What lies in the runs folder, told by file names: needs no library, so that the first page has it at once."""

from collections.abc import Callable
from pathlib import Path

from interp.app import engine

BENCH, QUALITY, REPRODUCTION = "bench.json", "quality.json", "result.json"
_KINDS: dict[str, Callable[[Path], bool]] = {
    "runs": lambda folder: (folder / "run.json").is_file(),
    "indexes": lambda folder: _holds_index(folder),
    "codebooks": lambda folder: (folder / "manifest.json").is_file() and not _holds_index(folder),
    "benches": lambda folder: (folder / BENCH).is_file(),
    "reproductions": lambda folder: (folder / REPRODUCTION).is_file(),
}


def _holds_index(folder: Path) -> bool:
    """Also one that is damaged, or not finished."""
    return any(folder.glob("*.npy")) or (folder / ".work" / "ids.npy").is_file()


def folders(kind: str) -> list[str]:
    """Names of the folders of a kind, newest first; a name from outside is only ever looked up in this list.

    Links to other places are left out.
    """
    runs, is_one = engine.runs(), _KINDS[kind]
    inside = (
        (f for f in runs.iterdir() if f.name[0] != "." and f.resolve().parent == runs)
        if runs.is_dir()
        else ()
    )
    found = [folder for folder in inside if is_one(folder)]
    return [
        folder.name for folder in sorted(found, key=lambda folder: (-folder.stat().st_mtime, folder.name))
    ]


def shown_path() -> str:
    """The runs folder as it is typed in a command."""
    here = Path.cwd()
    return str(engine.runs().relative_to(here) if engine.runs().is_relative_to(here) else engine.runs())
