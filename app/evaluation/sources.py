"""Where the page *Evaluation* finds its numbers: the runs folder, the package, and the repository if there is one."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.bottlenecks.store import PRETRAINED
from interp.report.bench import BenchRows, read_bench
from interp.report.tables import (
    BASE_FILE,
    MachineRow,
    Quality,
    RateRow,
    Steering,
    read_machine,
    read_quality,
    read_rates,
    read_steering,
)

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
"""What comes with a checkout."""
STEERINGS = {
    "seven topics": RESULTS / "steering",
    "seven topics, at tighter bounds of fluency": RESULTS / "steering-tight",
    "the same, another seed": RESULTS / "steering-tight-seed1",
    "four topics of development": RESULTS / "steering-development",
}
MACHINE = RESULTS / "tokfsm" / "summary.json"
FIRST = "ioi"
"""The README's, so that it is what a checkout shows before anything was run."""


def benches() -> dict[str, Path]:
    """Files by the names that are shown, those of the runs folder first."""
    found = {name: engine.runs() / name / run_store.BENCH for name in run_store.folders("benches")}
    kept = sorted((RESULTS / "bench").glob("*.json"), key=lambda path: (path.stem != FIRST, path.stem))
    return found | {f"{path.stem}, ready-made": path for path in kept}


def qualities() -> dict[str, Path]:
    """Files by the names of their codebooks, shipped ones first."""
    found = {
        f"{path.parent.name}, ready-made": path for path in sorted(PRETRAINED.glob(f"*/{run_store.QUALITY}"))
    }
    folders = [engine.runs() / name for name in run_store.folders("codebooks")]
    return found | {f.name: f / run_store.QUALITY for f in folders if (f / run_store.QUALITY).is_file()}


def unmeasured() -> list[str]:
    """Folders of codebooks that have not been evaluated."""
    return [
        name
        for name in run_store.folders("codebooks")
        if not (engine.runs() / name / run_store.QUALITY).is_file()
    ]


def rates() -> dict[str, Path]:
    """Files by their folders, those of the runs folder first."""
    found = {name: engine.runs() / name / run_store.RATES for name in run_store.folders("rates")}
    kept = sorted((RESULTS / "rates").glob("*/rates.json"))
    return found | {path.parent.name: path for path in kept}


def steerings() -> dict[str, Path]:
    """Folders by the bounds of fluency that were asked for."""
    return {name: folder for name, folder in STEERINGS.items() if (folder / BASE_FILE).is_file()}


def bench(path: Path) -> BenchRows:
    """
    Raises:
        InputError: damaged, not there any more, or a link out of the runs folder; as the two below.
    """
    return _read("bench", str(path), _changed(path))


def quality(path: Path) -> Quality:
    return _read("quality", str(path), _changed(path))


def steering(folder: Path) -> Steering:
    changed = tuple(run_store.changed(path) for path in sorted(folder.glob("*.json")))  # cells may go, too
    return _read("steering", str(folder), changed)


def rate_rows(path: Path) -> tuple[RateRow, ...]:
    return _read("rates", str(path), _changed(path))


def machine() -> Sequence[MachineRow]:
    return _read("machine", str(MACHINE), _changed(MACHINE))


_READERS = {
    "bench": read_bench,
    "quality": read_quality,
    "steering": read_steering,
    "machine": read_machine,
    "rates": read_rates,
}


@st.cache_data(max_entries=64, show_spinner=False)
def _read(kind: str, path: str, changed: int | tuple[int, ...]):  # noqa: ARG001 - a key of the cache
    return _READERS[kind](Path(path))


def _changed(path: Path) -> int:
    if path.is_relative_to(engine.runs()):  # the package's own may be links into an installer's cache
        run_store.check_inside(path)
    return run_store.changed(path)
