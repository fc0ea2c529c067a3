"""Where the page *Evaluation* finds its numbers: the runs folder, the package, and the repository if there is one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.bottlenecks.store import PRETRAINED

Result = TypeVar("Result")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"  # what comes with a checkout
STEERINGS = {
    "seven topics": RESULTS / "steering",
    "seven topics, at tighter bounds of fluency": RESULTS / "steering-tight",
    "the same, another seed": RESULTS / "steering-tight-seed1",
    "four topics of development": RESULTS / "steering-development",
}
MACHINE = RESULTS / "tokfsm" / "summary.json"
FIRST = "ioi"  # the README's, so that it is what a checkout shows before anything was run


def benches() -> dict[str, Path]:
    """Files by the names that are shown, those of the runs folder first."""
    of_runs = {name: engine.runs() / name / run_store.BENCH for name in run_store.folders("benches")}
    shipped = sorted((RESULTS / "bench").glob("*.json"), key=lambda path: (path.stem != FIRST, path.stem))
    return of_runs | {f"{path.stem}, ready-made": path for path in shipped}


def qualities() -> dict[str, Path]:
    """Files by the names of their codebooks, shipped ones first."""
    paths = sorted(PRETRAINED.glob(f"*/{run_store.QUALITY}"))
    shipped = {f"{path.parent.name}, ready-made": path for path in paths}
    folders = [engine.runs() / name for name in run_store.folders("codebooks")]
    return shipped | {f.name: f / run_store.QUALITY for f in folders if (f / run_store.QUALITY).is_file()}


def unmeasured() -> list[str]:
    names = run_store.folders("codebooks")
    return [name for name in names if not (engine.runs() / name / run_store.QUALITY).is_file()]


def read(reader: Callable[[Path], Result], path: Path) -> Result:
    """What a file or a folder of results holds, read once.

    :class:`InputError`: damaged, not there any more, or a link out of the runs folder.
    """
    if path.is_relative_to(engine.runs()):  # the package's own may be links into an installer's cache
        run_store.check_inside(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]  # some of a folder's may go
    return _read(reader.__name__, path, tuple(map(run_store.changed, files)), reader)


@st.cache_data(max_entries=64, show_spinner=False)
def _read(kind: str, path: Path, changed: tuple[int, ...], _reader: Callable):  # noqa: ARG001 - keys of the cache
    return _reader(path)
