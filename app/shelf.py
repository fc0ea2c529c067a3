"""What lies in the runs folder, told by file names: needs no library, so that the first page has it at once."""

from collections.abc import Callable
from pathlib import Path

from interp.app import engine

BENCH, QUALITY, REPRODUCTION = "bench.json", "quality.json", "result.json"
_KINDS: dict[str, Callable[[Path], bool]] = {
    "runs": lambda folder: (folder / "run.json").is_file(),
    "indexes": lambda folder: (folder / "manifest.json").is_file() and (folder / "ids.npy").is_file(),
    "codebooks": lambda folder: (folder / "manifest.json").is_file() and not (folder / "ids.npy").is_file(),
    "benches": lambda folder: (folder / BENCH).is_file(),
    "reproductions": lambda folder: (folder / REPRODUCTION).is_file(),
}


def folders(kind: str) -> list[str]:
    """Names of the folders of a kind, newest first; a name from outside is only ever looked up in this list."""
    if not engine.runs().is_dir():
        return []
    is_one = _KINDS[kind]
    found = [folder for folder in engine.runs().iterdir() if folder.name[0] != "." and is_one(folder)]
    return [
        folder.name for folder in sorted(found, key=lambda folder: (-folder.stat().st_mtime, folder.name))
    ]


def shown_path() -> str:
    """The runs folder as it is typed in a command."""
    here = Path.cwd()
    return str(engine.runs().relative_to(here) if engine.runs().is_relative_to(here) else engine.runs())
