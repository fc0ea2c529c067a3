"""Find a circuit or open one: its heads, what each does, its edges, how it stands beside others, its report."""

import shlex

import streamlit as st

from interp import DEFAULT_MODEL
from interp.app import engine
from interp.app.circuit.compared import compared
from interp.app.circuit.edges import edges
from interp.app.circuit.find import form
from interp.app.circuit.head import heads
from interp.app.circuit.program import program
from interp.app.circuit.runs import Opened, of_this_model, offer_model, opened, report
from interp.app.circuit.validity import validity
from interp.app.widgets import run_store
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, tell_missing
from interp.errors import InputError
from interp.report import wording
from interp.report.repeat import command_line, python_lines
from interp.runs.folder import heads_csv
from interp.scores.head_codes import SIDES

HEADS, EDGES, VALIDITY, COMPARED, REPORT = TABS = ("Heads", "Edges", "Validity", "Compared", "Report")
HEIGHT = 900


def first_command() -> str:
    """What finds a circuit in a terminal, into the folder that this page shows."""
    words = ["interp", "discover", "ioi", "--out", f"{run_store.shown_path()}/ioi-adaptive-patching"]
    spec = engine.model_name()
    return shlex.join(words + ([] if spec == DEFAULT_MODEL else ["--model", spec]))


def choose(names: list[str]) -> str:
    """The run that the address, the reader or the last discovery says; the newest otherwise."""
    wanted = st.query_params.get("run")
    name = st.selectbox("Run", names, index=names.index(wanted) if wanted in names else 0, key="run")
    st.query_params["run"] = name
    return name


def summary(found: Opened) -> None:
    run, scale = found.run, found.scale
    name = wording.METRIC_NAMES.get(run.metric.name, run.metric.name)
    columns = st.columns(4)
    columns[0].metric("Members", len(run.members))
    for column, side in zip(columns[1:3], SIDES, strict=True):
        mean = wording.signed(getattr(run.metric, side), scale.places)
        column.metric(f"On {side} prompts", mean, help=f"Mean {plain(name)}.")
    columns[3].metric("Pairs", run.n_pairs)
    st.caption(
        f"{plain(run.task)} on {plain(run.model or 'a model')} by "
        f"{plain(run.method)}, seed {run.seed}, scored by {plain(name)}. A member moves it by "
        f"{wording.percent(run.settings.threshold)} of the gap or more when it is patched, "
        "with a 95 % interval off zero."
    )


def whole_report(found: Opened) -> None:
    """The report, what to take away, and how to repeat the run."""
    page = report(found)
    left, right, _ = st.columns([1, 1, 3])
    left.download_button("Report as HTML", page, f"{found.name}.html", "text/html", on_click="ignore")
    right.download_button(
        "Heads as CSV", heads_csv(found.run), f"{found.name}-heads.csv", "text/csv", on_click="ignore"
    )
    with st.expander("Repeat this run"):
        st.code(command_line(found.run, found.prompts, found.reference), language="bash")
        st.code(python_lines(found.run, found.prompts, found.reference), language="python")
    # in the frame its own links would lead to the workbench's address; behind the policy this would be refused
    st.iframe(page.replace("<head>", '<head><base href="about:srcdoc">', 1), height=HEIGHT)


st.title("Circuit")
if "found run" in st.session_state:  # of the last discovery
    st.session_state["run"] = st.session_state.pop("found run")
asked = st.session_state.get("run", st.query_params.get("run"))
every = run_store.folders("runs")
names = [name for name in every if name == asked or of_this_model(name)]
tell_missing("run", names, "run")
if names:
    name = choose(names)
elif not every:
    st.info(
        f"No runs in {plain(run_store.shown_path())} yet. Find the circuit of a task here: it takes about a minute and "
        "says which heads do it, what they read and write, and how far that was checked. Or in a terminal:"
    )
    st.code(first_command(), language="bash")
if hidden := len(every) - len(names):
    st.caption(f"Not listed: {hidden} of other models. Choose one above, where the model's name stands.")
form(expanded=not names)
if not names:
    st.stop()
try:
    found = opened(name)
except InputError as error:
    engine.say(error)
    st.caption("The other runs can be chosen above. This one can be deleted, or made again.")
    st.stop()
offer_model(found.run)
program(found)
summary(found)
tabs = dict(zip(TABS, st.tabs(TABS, key="tab", bind=IN_URL), strict=True))
for title, draw in (
    (HEADS, heads),
    (EDGES, edges),
    (VALIDITY, validity),
    (COMPARED, compared),
    (REPORT, whole_report),
):
    if tabs[title].open:
        with tabs[title]:
            draw(found)
