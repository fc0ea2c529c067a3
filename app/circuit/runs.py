"""The run that the page *Circuit* shows, read once for all tabs, and which model may be run for it."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from interp.app import engine
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.planted.tasks import planted_task_names
from interp.report.circuit_figures import Scale
from interp.report.compare import Comparison, compare_runs
from interp.report.page import render_report
from interp.runs.folder import REFERENCE, RESULT, VALIDITY, kept_prompts
from interp.runs.run import Run


@dataclass(frozen=True)
class Opened:
    """A run of the runs folder."""

    name: str
    run: Run
    changed: int  # when it, or its card, was written: what was read of another one of that name is not used any more

    @property
    def folder(self) -> Path:
        return engine.runs() / self.name

    @property
    def prompts(self) -> str | None:
        """What to type for the task where the run keeps its prompts."""
        prompt_file = kept_prompts(self.folder)
        return None if prompt_file is None else f"{run_store.shown_path()}/{self.name}/{prompt_file.name}"

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
    """The run of this name; one that is damaged, gone, or has a link to another place is an :class:`InputError`."""
    folder = engine.runs() / name
    files = [folder / RESULT, *(path for path in [folder / VALIDITY] if path.is_file())]
    changed = max(map(run_store.changed, files))
    return Opened(name, _run(folder, changed), changed)


@st.cache_resource(max_entries=16, show_spinner="Opening the run")
def _run(folder: Path, changed: int) -> Run:  # noqa: ARG001 - a key of the cache
    run_store.check_inside(folder)
    return Run.load(folder)


BY_KEY = {Opened: lambda shown: (*shown.key, shown.prompts, shown.reference)}
"""What Streamlit's caches know an opened run by."""


@st.cache_resource(max_entries=8, show_spinner="Drawing the report", hash_funcs=BY_KEY)
def report(shown: Opened) -> str:
    return render_report(shown.run, shown.prompts, shown.reference)


@st.cache_resource(max_entries=16, show_spinner="Comparing", hash_funcs=BY_KEY)
def comparison(a: Opened, b: Opened) -> Comparison:
    return compare_runs(a.run, b.run)


def ink() -> str:
    """The colour of text on the page, for figures that write on colours of their own."""
    return "#f4f5f7" if st.context.theme.type == "dark" else "#16191d"


def model_of(run: Run) -> str:
    """The spec of the model to run again; an :class:`OtherModelError` where it has to be asked for."""
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
    spec = run_store.says(engine.runs() / name / RESULT, "model")
    if spec is None or may_run(str(spec)):
        return True
    st.session_state.setdefault("models of runs", {})[str(spec)] = None
    return False


def may_run(spec: str) -> bool:
    """Whether it is the model of the tab, or is there without a word: a run must not have another one fetched."""
    return spec in (engine.model_name(), *engine.known_models(), *planted_task_names())


def offer_model(run: Run) -> None:
    try:
        model_of(run)
    except engine.OtherModelError as error:
        engine.say(error)
        if run.model is not None:
            st.button(f"Load {plain(run.model)}", icon=":material/memory:", on_click=engine.use, args=(run.model,))
