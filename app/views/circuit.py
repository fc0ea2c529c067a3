"""Open a run: its circuit as a table, and its report."""

import streamlit as st

from interp.app import engine
from interp.report import render_report
from interp.runs import RESULT, Run
from interp.tasks.errors import InputError

RUNS = engine.runs()
HEIGHT = 900


@st.cache_data(max_entries=8, show_spinner="Drawing the report")
def page(folder: str, _changed: float) -> str:
    return render_report(Run.load(folder))


def runs() -> list[str]:
    """Names of the run folders, newest first; a name from outside is only ever looked up in this list."""
    if not RUNS.is_dir():
        return []
    found = [folder for folder in RUNS.iterdir() if (folder / RESULT).is_file() and folder.name[0] != "."]
    return [folder.name for folder in sorted(found, key=lambda f: -(f / RESULT).stat().st_mtime)]


st.title("Circuit")
names = runs()
if not names:
    st.info(f"No runs in {RUNS} yet. Make one in a terminal, then reload this page:")
    st.code("interp discover ioi", language="bash")
    st.stop()
wanted = st.query_params.get("run")
name = st.selectbox("Run", names, index=names.index(wanted) if wanted in names else 0, key="run")
st.query_params["run"] = name
try:
    run = Run.load(RUNS / name)
    report = page(str(RUNS / name), (RUNS / name / RESULT).stat().st_mtime)
except InputError as error:
    engine.say(error)
    st.stop()
metric = run.result["metric"]
columns = st.columns(4)
columns[0].metric("Members", len(run.members))
columns[1].metric(f"{metric.get('name', 'metric')} on clean", f"{metric['clean']:.2f}")
columns[2].metric("on corrupt", f"{metric['corrupt']:.2f}")
columns[3].metric("Pairs", run.result.get("n_pairs"))
st.dataframe(
    [
        {key: part[key] for key in ("site", "score", "effect", "effect_low", "effect_high")}
        for part in run.members
    ],
    hide_index=True,
)
st.download_button("Heads as CSV", run.to_csv(), file_name=f"{name}-heads.csv", mime="text/csv")
with st.expander("Report", expanded=True):
    st.iframe(report, height=HEIGHT)
