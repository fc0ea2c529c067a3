"""The run that the page *Circuit* shows: read once, kept for all tabs, and what is read again by running its model."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.errors import InputError
from interp.files import read_json
from interp.models import Model
from interp.planted.tasks import planted_task_names
from interp.report.circuit_figures import Scale
from interp.report.compare import Comparison, compare_runs
from interp.report.page import render_report
from interp.runs.folder import REFERENCE, RESULT, VALIDITY, kept_prompts
from interp.runs.run import Run

_NOTHING = object()


@dataclass(frozen=True)
class Opened:
    """A run of the runs folder.

    Attributes:
        changed: when it, or its card, was written: what was read of another one of that name is not used any more.
    """

    name: str
    run: Run
    changed: int

    @property
    def folder(self) -> Path:
        return engine.runs() / self.name

    @property
    def prompts(self) -> str | None:
        """What to type for the task where the run keeps its prompts."""
        kept = kept_prompts(self.folder)
        return None if kept is None else f"{run_store.shown_path()}/{self.name}/{kept.name}"

    @property
    def reference(self) -> str | None:
        """What to type for the reference of one's own where the run keeps it."""
        return None if self.run.own_reference is None else f"{run_store.shown_path()}/{self.name}/{REFERENCE}"

    @property
    def scale(self) -> Scale:
        return Scale.of(self.run)

    @property
    def key(self) -> tuple[Path, int]:
        return self.folder, self.changed


def opened(name: str) -> Opened:
    """The run of this name.

    Raises:
        InputError: it is damaged, not there any more, or a file of it is a link to another place.
    """
    folder = engine.runs() / name
    files = [folder / RESULT, *(path for path in [folder / VALIDITY] if path.is_file())]
    changed = max(map(run_store.changed, files))
    return Opened(name, _run(folder, changed), changed)


@st.cache_resource(max_entries=16, show_spinner="Opening the run")
def _run(folder: Path, changed: int) -> Run:  # noqa: ARG001 - a key of the cache
    run_store.check_inside(folder)
    return Run.load(folder)


BY_KEY = {Opened: lambda found: (*found.key, found.prompts, found.reference)}
"""What Streamlit's caches know an opened run by."""


@st.cache_resource(max_entries=8, show_spinner="Drawing the report", hash_funcs=BY_KEY)
def report(found: Opened) -> str:
    """The whole report as HTML."""
    return render_report(found.run, found.prompts, found.reference)


@st.cache_resource(max_entries=16, show_spinner="Comparing", hash_funcs=BY_KEY)
def comparison(a: Opened, b: Opened) -> Comparison:
    """Two runs side by side.

    Raises:
        InputError: models of different shapes.
    """
    return compare_runs(a.run, b.run)


def ink() -> str:
    """The colour of text on the page, for figures that write on colours of their own."""
    return "#f4f5f7" if st.context.theme.type == "dark" else "#16191d"


def model_of(run: Run) -> str:
    """The spec of the model to run again.

    Raises:
        OtherModelError: it has to be asked for.
    """
    spec = run.model
    if spec is None:
        raise engine.OtherModelError(
            "the run is of a model that was in memory: what it holds is shown, other prompts are not read"
        )
    if not may_run(spec):
        raise engine.OtherModelError(
            f"the run is of {spec}, this workbench runs {engine.model_name()}: what the run holds is shown, "
            "other prompts are not read until its model is loaded"
        )
    return spec


def of_this_model(name: str) -> bool:
    """Whether a run can be gone on with here; also if that cannot be told, and whoever opens it hears why."""
    path = engine.runs() / name / RESULT
    try:
        run_store.check_inside(path)
        spec = _spec(path, run_store.changed(path))
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return True
    if spec is None or may_run(spec):
        return True
    st.session_state.setdefault("models of runs", {})[spec] = None
    return False


@st.cache_data(max_entries=256, show_spinner=False)
def _spec(path: Path, changed: int) -> str | None:  # noqa: ARG001 - a key of the cache
    spec = read_json(path)["model"]
    return None if spec is None else str(spec)


def may_run(spec: str) -> bool:
    """Whether it is the model of the tab, or is there without a word: a run must not have another one fetched."""
    return spec in (engine.model_name(), *engine.known_models(), *planted_task_names())


def offer_model(run: Run) -> None:
    """Load a run's model, if it is another one."""
    try:
        model_of(run)
    except engine.OtherModelError as error:
        engine.say(error)
        if run.model is not None:
            st.button(
                f"Load {plain(run.model)}", icon=":material/memory:", on_click=engine.use, args=(run.model,)
            )


def check_shape(run: Run, model: Model) -> None:
    """Raise :class:`InputError` unless the run's heads are those of the model."""
    theirs, ours = run.shape, (model.cfg.n_layers, model.cfg.n_heads)
    if theirs != ours:
        raise InputError(
            f"the run has {theirs[0]} layers of {theirs[1]} heads, its model now {ours[0]} of {ours[1]}: "
            "run the discovery again"
        )


class Kept:
    """What forward passes gave, for all tabs; the least recently used goes first.

    Unlike a cached function it tells whether it has something before a turn at the model is asked for.
    """

    def __init__(
        self, most: int, most_bytes: int | None = None, size: Callable[[Any], int] = lambda _made: 0
    ) -> None:
        """
        Args:
            most: how many are kept.
            most_bytes: of all of them together; the last one is kept however large it is.
            size: of one of them, in bytes.
        """
        self.most, self.most_bytes, self.size = most, most_bytes, size
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._found

    def get(
        self,
        key: Hashable,
        make: Callable[[Any], Any],
        turn: Callable[[], AbstractContextManager] = nullcontext,
    ) -> Any:
        """What is kept under the key, or what ``make`` makes now of what ``turn`` gives, within it."""
        if (known := self._known(key)) is not _NOTHING:
            return known
        with turn() as given:
            # a tab that was before this one may have asked for the same
            if (known := self._known(key)) is not _NOTHING:
                return known
            return self._keep(key, make(given))

    def _known(self, key: Hashable) -> Any:
        with self._lock:
            if key not in self._found:
                return _NOTHING
            self._found.move_to_end(key)
            return self._found[key]

    def _keep(self, key: Hashable, made: Any) -> Any:
        with self._lock:
            self._found[key] = made
            while len(self._found) > self.most or (len(self._found) > 1 and self._too_large()):
                self._found.popitem(last=False)
        return made

    def _too_large(self) -> bool:
        return self.most_bytes is not None and sum(map(self.size, self._found.values())) > self.most_bytes
