"""Open a run: its circuit as a table, and its report."""

import os
from pathlib import Path

import streamlit as st

from interp.report import render_report
from interp.runs import RESULT, Run
from interp.tasks.errors import InputError

RUNS = Path(os.environ.get("INTERP_RUNS", "runs")).resolve()

st.title("Circuit")
found = (
    sorted(folder.name for folder in RUNS.glob("*") if (folder / RESULT).is_file()) if RUNS.is_dir() else []
)
if not found:
    st.info(f"No runs in {RUNS} yet. Make one in a terminal: interp discover ioi")
    st.stop()
wanted = st.query_params.get("run")
name = st.selectbox("Run", found, index=found.index(wanted) if wanted in found else 0, key="run")
st.query_params["run"] = name
try:
    run = Run.load(RUNS / name)
except InputError as error:
    st.error(str(error))
    st.stop()
metric = run.result["metric"]
columns = st.columns(4)
columns[0].metric("Members", len(run.members))
columns[1].metric(f"{metric['name']} on clean", f"{metric['clean']:.2f}")
columns[2].metric("on corrupt", f"{metric['corrupt']:.2f}")
columns[3].metric("Pairs", run.result["n_pairs"])
st.dataframe(
    [{k: part[k] for k in ("site", "score", "effect", "effect_low", "effect_high")} for part in run.members],
    hide_index=True,
)
with st.expander("Report", expanded=True):
    st.iframe(render_report(run), height=900) if hasattr(st, "iframe") else st.components.v1.html(
        render_report(run), height=900, scrolling=True
    )
