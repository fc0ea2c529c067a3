"""Find a circuit or open one: its heads, what each does, its edges, how it stands beside others, its report."""

import streamlit as st
from streamlit.column_config import NumberColumn

from interp.app import engine
from interp.app.circuit.compared import compared, validity
from interp.app.circuit.find import form
from interp.app.circuit.head import heads
from interp.app.circuit.program import program
from interp.app.circuit.runs import Opened, ink, of_this_model, offer_model, opened, report
from interp.app.widgets import run_store
from interp.app.widgets.charts import chart, command, table
from interp.app.widgets.codebook_picker import model_option
from interp.app.widgets.tokens import plain
from interp.app.widgets.url_state import IN_URL, from_address, tell_missing
from interp.errors import InputError
from interp.prompts.pairs import SIDES
from interp.report import circuit_figures, wording
from interp.report.repeat import command_line, python_lines
from interp.runs.folder import heads_csv

HEIGHT = 900
MOST_DRAWN = 100
_SCORED = ("sender", "receiver", "into", "score")
_MEASURED = ("sender", "receiver", "into", "effect", "error", "measured", "probability", "co_occurrence")


def summary(shown: Opened) -> None:
    run, scale = shown.run, shown.scale
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


@st.fragment
def edges(shown: Opened) -> None:
    run = shown.run
    if not run.members or not run.edges:
        st.info("This run has no edges: they are scored among members, and it has too few of them.")
        return
    among = circuit_figures.strongest_edges(run)
    left, _ = st.columns([1, 2])
    most, first = max(6, min(MOST_DRAWN, len(among))), min(circuit_figures.DRAWN, max(6, len(among)))
    n = left.slider("Edges drawn", 5, most, first, key="edges drawn")
    about = f"The {n} strongest edges among the members, by layer; the same as the table below"
    chart(circuit_figures.edge_plot(run, shown.scale, ink(), n, among), f"graph of {shown.name}", about)
    drawn = f"The {min(n, len(among))} strongest of {len(among)} edges, layers from bottom to top."
    st.caption(f"{drawn} {circuit_figures.edges_explained(run, among)}")
    columns = _MEASURED if circuit_figures.measures_edges(among) else _SCORED
    # edges are weaker than heads: their decimals follow the strongest of them
    strongest = [wording.places(abs(circuit_figures.strength(edge))) for edge in among[:1]]
    digits = max([shown.scale.places, *strongest])
    patched = "Pairs on which the edge was path-patched; on others its attribution is corrected by these."
    bits = "What the codes of the two heads tell of each other."
    columns_as = {
        "sender": "from",
        "receiver": "to",
        "score": NumberColumn(format="%.0f" if run.edges_are_counts else f"%+.{digits}f"),
        "effect": NumberColumn(format=f"%+.{digits}f"),
        "error": NumberColumn(format=f"%.{digits}f"),
        "probability": NumberColumn(format="%.2f", help="That the effect is above the threshold."),
        "measured": NumberColumn("pairs patched", help=patched),
        "co_occurrence": NumberColumn("bits shared", format="%.2f", help=bits),
    }
    table([{key: getattr(edge, key) for key in columns} for edge in among], "edge table", columns_as)


def whole_report(shown: Opened) -> None:
    page = report(shown)
    left, right, _ = st.columns([1, 1, 3])
    left.download_button("Report as HTML", page, f"{shown.name}.html", "text/html", on_click="ignore")
    right.download_button(
        "Heads as CSV", heads_csv(shown.run), f"{shown.name}-heads.csv", "text/csv", on_click="ignore"
    )
    with st.expander("Repeat this run"):
        st.code(command_line(shown.run, shown.prompts, shown.reference), language="bash")
        st.code(python_lines(shown.run, shown.prompts, shown.reference), language="python")
    # in the frame its own links would lead to the workbench's address; behind the policy this would be refused
    st.iframe(page.replace("<head>", '<head><base href="about:srcdoc">', 1), height=HEIGHT)


st.title("Circuit")
if "found run" in st.session_state:  # of the last discovery
    st.session_state["run"] = st.session_state.pop("found run")
chosen_run = st.session_state.get("run", st.query_params.get("run"))
all_runs = run_store.folders("runs")
names = [name for name in all_runs if name == chosen_run or of_this_model(name)]
tell_missing("run", names, "run")
if names:
    from_address("run", names, names[0])
    name = st.query_params["run"] = st.selectbox("Run", names, key="run")
elif not all_runs:
    st.info(
        f"No runs in {plain(run_store.shown_path())} yet. Find the circuit of a task here: it takes about a minute and "
        "says which heads do it, what they read and write, and how far that was checked. Or in a terminal:"
    )
    words = ["interp", "discover", "ioi", "--out", f"{run_store.shown_path()}/ioi-adaptive-patching"]
    command(words + model_option(engine.model_name()))
if hidden := len(all_runs) - len(names):
    st.caption(f"Not listed: {hidden} of other models. Choose one above, where the model's name stands.")
form(expanded=not names)
if not names:
    st.stop()
try:
    shown = opened(name)
except InputError as error:
    engine.say(error)
    st.caption("The other runs can be chosen above. This one can be deleted, or made again.")
    st.stop()
offer_model(shown.run)
program(shown)
summary(shown)
PARTS = {"Heads": heads, "Edges": edges, "Validity": validity, "Compared": compared, "Report": whole_report}
for tab, draw in zip(st.tabs(list(PARTS), key="tab", bind=IN_URL), PARTS.values(), strict=True):
    if tab.open:
        with tab:
            draw(shown)
